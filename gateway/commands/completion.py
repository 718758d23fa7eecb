"""`postroom completion`: what makes a shell complete the commands, their options and the addresses of mailboxes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Final

import typer

from gateway.commands import calling, options, output

app = options.commands("Print what makes a shell complete these commands.")

SECONDS: Final = 1.0  # nobody waits longer for a Tab


class Shell(StrEnum):
    """Shells that can be taught."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(
    epilog=options.examples(
        "postroom completion bash > ~/.local/share/bash-completion/completions/postroom",
        "postroom completion zsh > ~/.zfunc/_postroom    # a folder of $fpath",
        "postroom completion fish > ~/.config/fish/completions/postroom.fish",
        "source <(postroom completion bash)              # for this shell alone",
    )
)
def completion(shell: Annotated[Shell, typer.Argument(help="Whose language it is printed in")]) -> None:
    """Print what makes a shell complete these commands, their options and the addresses of mailboxes."""
    typer.echo(SCRIPTS[shell].lstrip("\n"), nl=False)


SCRIPTS: Final = {
    Shell.BASH: r"""
_postroom_completion() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$' \t\n' words begun=""
    read -r -a words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local last=$((${#words[@]} - 1))
    # where @ breaks words, readline replaces what stands behind it
    [[ ${words[last]} == *@* && $COMP_WORDBREAKS == *@* ]] && begun="${words[last]%@*}@"
    IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="${words[*]}" COMP_CWORD=$last _POSTROOM_COMPLETE=complete_bash "$1" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$begun"}")
}
complete -o default -F _postroom_completion postroom
""",
    Shell.ZSH: r"""
#compdef postroom
_postroom_completion() {
    eval "$(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _POSTROOM_COMPLETE=complete_zsh postroom 2>/dev/null)"
}
if [ "$funcstack[1]" = _postroom ]; then _postroom_completion "$@"; else compdef _postroom_completion postroom; fi
""",
    Shell.FISH: r"""
function __postroom_complete
    env _POSTROOM_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) postroom 2>/dev/null
end
complete --command postroom --no-files --arguments "(__postroom_complete get-args)" \
    --condition "__postroom_complete is-args"
""",
}


def addresses(incomplete: str) -> list[str]:
    """Addresses of mailboxes that begin so, newest first; none where no gateway answers soon."""
    with contextlib.suppress(Exception):  # a Tab shows no errors
        return list(_addresses(incomplete))
    return []


def _addresses(incomplete: str) -> Iterator[str]:
    import httpx2  # noqa: PLC0415 - see gateway.commands

    place = calling.target()
    answer = httpx2.get(
        f"{place.url.rstrip('/').removesuffix('/v1')}/v1/mailboxes",
        params={"limit": calling.PAGE},
        headers={"authorization": f"Bearer {place.api_key}"},
        timeout=SECONDS,
    )
    for box in answer.json()["data"]:
        if box["address"].startswith(incomplete):
            yield output.clean(box["address"])
