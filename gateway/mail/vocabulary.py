"""The words by which senders name codes, other numbers and links, in fifteen languages, and how they are looked for.

Words are written as a reader would: in lower case, a blank standing for a blank, hyphen, underscore or nothing.
"^word" begins a word, "word$" ends one; without them a stem is found within longer words, which is how German,
Dutch, Turkish or Russian need it. Arabic, Hindi, Chinese, Japanese and Korean are written with stems alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# What a one-time code is called.
CODE: Final = """
^code$|^codes$|code$|codes$|passcode|^otp$|^otps$|^totp$|^pin$|^password$|one time password|^token$|access key
access pass|^passkey$
verification number|security number|
^código|^codigo$|^clave$|^contraseña$|
^mot de passe$|
einmalpasswort|einmalkennwort|einmalcode|^tan$|^mtan$|^smstan$|^passwort$|^kennwort$|
^senha$|
^codice$|^codici$|
^wachtwoord$|
^kod$|^kodu|^kodem$|^hasło|^hasła|
^код$|^кода$|^коду$|^кодом$|^пароль|^пароля|^паролем|пинкод|пин код|
^kodun|^koduy|^şifre|^parola|
验证码|驗證碼|校验码|校驗碼|动态码|動態碼|动态密码|動態密碼|激活码|確認碼|确认码|安全码|安全碼|一次性密码|一次性密碼|口令|取件码|登录码|识别码|代码|代碼
コード|パスワード|認証番号|確認番号|暗証番号|
인증번호|인증 번호|코드|비밀번호|보안번호|확인번호|승인번호|
رمز|كود|كلمة المرور|كلمة مرور|الرقم السري|
कोड|ओटीपी|पासवर्ड|पिन
"""

# What else a number, or letters and digits, may be. A "code" that belongs to one of them is named with it.
OTHER: Final = """
^order|^invoice|^ticket|^tracking|^account|^acct|^reference|^ref$|^case$|^zip|^suite$|^since$|^year|^version
^build$|^v$
^phone|^telephone|^tel$|^fax$|^call$|^dial$|^room|^flight|^port$|^unit$|^ext$|^extension$|^section|^plan$|^job$
^boeking|^localizador|^reserva|^prenotazione|^réservation|^rezervasyon|брон|^rezerwac|^pnr$|^salary|^record locator
^issue|^bug$|^receipt|^booking|^reservation|^confirmation n|^customer|^member|^licen|^serial|^model|^sku$|^item
^article
^vat|^iban|^bic$|^tax|^company n|^card|^ending|^apt|^box$|^id$|^copyright|©|^commit$|^total|^amount|^balance|^price
^sum$
^shipment|^parcel n|^policy|^contract|^case n|^claim|^approval|^auth code|^seat|^gate|^locker|^lot|^batch
^request n|^attempt|^hotline|^fee|^paid
promo|coupon|discount|voucher|gift|referral|postal|^postcode|^area code|^country code|^error|^status code|^exit code
^source code|^sort code|^routing|^dress code|^bar code|^qr|^unicode|^code of|^code review|^code freeze|^http|^swift
^pedido|^factura|^fatura|^expediente|^cliente|^referencia|^referência|^teléfono|^telefone|^importe
^código postal|^codigo postal|^código promo|^código de descuento|^código de desconto|^código de rast|^código de segui
^código de barra|^código de cliente|^código de reserva|^código de art|^cupom|^cupón|^cep$|^seguimiento|^rastreio
^cnpj|^cpf$
^nif|^nota fiscal|^entidade|^ramal|^sala$|^número de pedido|^número do pedido|^valor|^llama|^ligue|^contacto
^commande|^facture|^suivi|^colis|^client|^montant|^référence|^téléphone|^siret|^siren|^rcs$|^code promo|^code postal
^code client|^code barre|^code de réduction|^code de suivi|^code de parrainage|^code avantage|^dossier|^numéro de c
^appelez
bestell|rechnung|kunden|sendung|gutschein|rabatt|aktionscode|^plz$|postleit|^blz$|verwendungszweck|^hrb$|^ust
telefon|betrag
vorgang|vertrag|^aktenzeichen|seriennummer|artikel|auftrag|buchung|steuer|^konto|^karte|summe|^zimmer|^raum
^ordine|^fattura|^bolletta|^spedizione|^tracciamento|^codice sconto|^codice promo|^codice fiscale|^codice cliente
^cap$
^codice di tracc|^codice postale|^codice ordine|^codice prenot|^codice a barre|^codice articolo|^numero verde
^numero ordine
^p.iva|^partita|^importo|^telefono|^pratica|^chiama
bestelnummer|^bestelling|factuur|^klant|^postcode|korting|^kvk|^btw|^kamer|^telefoon|^bedrag|^track|^kassabon
polisnummer
zamówieni|faktur|^nip$|^regon|^krs$|^klient|^paczk|^kwota|^kod pocztowy|^kod rabatowy|^kod promo|^kod kresk
^infolinia|^pokój
заказ|счёт|счет|договор|^инн$|^кпп$|^индекс|^тел$|телефон|промокод|промо|скидк|купон|трек|посылк|сумм|карт|штрих
^клиент|накладн
^почтовый|^код товара|^код города|^артикул
sipariş|fatura|^abone|^müşteri|^posta kod|^indirim|^kargo|^takip|^mersis|^vergi|^toplam|^tutar|^kampanya|^hediye
^oda$|^kupon
订单|訂單|运单|運單|发票|發票|邮编|郵編|邮政|金额|金額|电话|電話|优惠|優惠|折扣|客服|备案|尾号|末四|编号|編號|快递|物流|兑换|源代码|源码
注文|請求|お客様|問い合わせ|クーポン|合計|〒|郵便|電話|追跡|伝票|予約番号|会員番号|割引|品番|型番|ソースコード|バーコード
주문|송장|운송장|우편|고객|쿠폰|할인|결제|청구|예약|문의|금액|전화|소스|바코드|회원번호
الطلب|طلبك|الفاتورة|العميل|التتبع|المبلغ|الخصم|خصم|البريدي|بريدي|هاتف|الاتصال|اتصل|السجل|رمز بريدي|الرمز البريدي
كود خصم|كود الخصم|رمز الخصم
ऑर्डर|कूपन|छूट|ग्राहक|ट्रैकिंग|राशि|पिन कोड|फ़ोन|फोन|हेल्पलाइन|बिल|कार्ड|प्रोमो|चालान|कॉल
"""

# What goes with a code, and with other mail as well.
WEAK: Final = """
verif|confirm|authentic|authoriz|authoris|^2fa$|two factor|^mfa$|two step|identity|activat|validat|sign in|log in
signing in
logging in|one time|recovery|
bestätig|anmeld|einlogg|sicherheit|zweistufig|
vérif|connexion|connecter|double authent|
iniciar sesión|acceso|acceder|autentic|
acesso|entrar|autenti|
conferm|accedi|accesso|
inlogg|bevestig|verificat|eenmalig|
weryfik|potwierd|logowani|zalogow|jednoraz|uwierzyteln|
подтвержд|подтверд|вход|войти|авториз|аутентиф|однораз|
doğrula|onayla|giriş|tek kullanım|
验证|驗證|登录|登入|认证|身份|認証|確認|ログイン|ワンタイム|本人確認|
인증|확인|로그인|본인|
تحقق|تأكيد|تفعيل|الدخول|لمرة واحدة|
सत्याप|लॉगिन|पुष्टि|वन टाइम
"""

# "Enter …", "type …", "use …", right before the code.
ENTER: Final = """
^enter$|^type$|^use$|^input$|^insert$|^with$|^reply$|^provide$|^submit$|^key in$|
^introduce|^introduzca|^escribe|^escriba|^utiliza|^utilice|^usa$|^use$|^ingresa|^ingrese|^digita|^teclea|
^saisissez|^saisir|^entrez|^entrer|^utilisez|^tapez|^indiquez|
^geben sie|^gib$|^eingeben|^nutze|^verwende|^nutzen sie|^verwenden sie|
^digite|^insira|^introduza|^informe|^utilize|
^inserisci|^inserire|^inserisca|^usa$|^utilizza|
^voer$|^vul$|^gebruik|^typ$|
^wpisz|^podaj|^użyj|^wprowadź|
^введите|^укажите|^используйте|^наберите|
输入|輸入|填写|使用|入力|입력|أدخل|استخدم|اكتب|दर्ज|^için$
"""

# What says a code that the subject has named, right before it: whole, and as it stands here.
IT_IS: Final = """
it is|it's|it’s|its|this is it|here it is|here you go|here you are|that is
er ist|er lautet|sie lautet|es ist|hier ist er|hier ist sie
il est|le voici|c'est|c’est|le voilà
es el|es|aquí está|aquí lo tienes|é o|é|aqui está|è|eccolo|het is|hij is|hier is hij
to|oto on|oto kod|это|вот он|он такой
"""

# Where something is given away or sold, codes are for the shop's till.
PROMO: Final = """
% off|promo|^friends|share your code|coupon|discount|voucher|gift card|gift code
checkout|^save$|next order|first order|^shop$|next purchase
^sale$|cashback|referral
rabatt|gutschein|sparen|remise|réduction|soldes|profitez|descuento|cupón|oferta|llévate|
desconto|cupom|sconto|offerta|korting|rabat|promocj|zniżk|скидк|промокод|акци|indirim|kampanya|fırsat|
优惠|優惠|折扣|满减|立减|クーポン|割引|プレゼント|セール|할인|쿠폰|적립|خصم|عرض|छूट|कूपन|ऑफ़र
"""

UNSUBSCRIBE: Final = """
unsubscri|^opt out|/optout|optout|email preferences|mail preferences|notification settings|manage preferences
list-manage
manage your preferences|stop receiving|stop these
abmelden|abbestell|austragen|désabonn|desabonn|désinscri|desinscri|
desuscri|^darse de baja|^darme de baja|^dar de baja|^cancelar inscri|^cancelar la suscri|^cancelar suscri
^cancelar subscri
^cancelar a subscri|^cancelar assin|^remover|descadastr|
^annulla iscri|^annulla l'iscri|disiscri|^cancella iscri|^cancellati|
uitschrij|afmeld|wypisz|wypisać|zrezygnuj|rezygnacja z sub|отпис|abonelikten|abonelikten çık|listeden çık
aboneliği iptal|
退订|退訂|取消订阅|取消訂閱|配信停止|配信解除|登録解除|購読解除|購読を解除|수신거부|수신 거부|구독 취소|구독취소|
إلغاء الاشتراك|الغاء الاشتراك|सदस्यता समाप्त|सदस्यता रद्द|अनसब्सक्राइब|सदस्यता छोड़
"""

RESET: Final = """
^reset|password reset|forgot|recover|change password|change your password|new password|set password|set your password
set a password|choose a password|create a password|
passwort|zurücksetz|zuruecksetz|réinitialis|reinitialis|mot de passe|restablec|recuperar|recupera|contraseña
contrasena|
redefinir|senha|reimpost|wachtwoord|herstel|hasło|hasła|haslo|hasla|resetuj|сброс|восстанов|парол|sıfırla|sifirla
şifre|sifre|
重置|重設|重设|找回|密码|密碼|パスワード|再設定|リセット|재설정|비밀번호|إعادة تعيين|استعادة|كلمة المرور|रीसेट|पासवर्ड
"""

VERIFY: Final = """
verif|confirm|activat|validat|approve|
bestätig|bestaetig|aktivier|vérifi|valider|activer|confirma|activar|conferm|attiva|validar|ativar|bevestig|activeer|
potwierd|potwierdz|zweryfik|aktywuj|подтверд|активир|верифи|doğrula|dogrula|onayla|etkinleştir|
验证|驗證|激活|确认|確認|認証|有効化|인증|확인|활성화|تأكيد|أكد|تحقق|تفعيل|सत्याप|पुष्टि|सक्रिय
"""

INVITE: Final = """
invit|^join|/join|^accept|/accept|einlad|beitret|annehmen|accepter|rejoindre|unirse|unirme|^únete|^aceptar|^aceitar
convite|
convida|participar|^accetta|unisciti|uitnod|deelnemen|zaprosz|dołącz|przyjmij|приглаш|присоедин|принять|davet|katıl|
邀请|邀請|加入|接受|招待|参加|초대|수락|참여|دعوة|انضم|قبول|निमंत्रण|आमंत्र|शामिल|स्वीकार
"""

LOGIN: Final = """
log in$|login|log me in|sign in$|signin|sign me in|magic|one time|passwordless|/auth$|/sso$|anmeld|einlogg
connexion|connecter|
iniciar sesi|inicia sesi|^acceder|^accede|^entrar|^entra$|iniciar sess|acessar|^accedi|inlogg|aanmeld|zalogu|logowan|
войти|вход|авториз|giriş|giris|oturum aç
登录|登錄|登入|ログイン|サインイン|로그인|تسجيل الدخول|الدخول|लॉग इन|लॉगिन|साइन इन
"""

# Names of links that say nothing: what stands before them does.
HERE: Final = """
here|click here|this link|link|hier|hier klicken|klicken sie hier|ici|cliquez ici|aquí|haz clic aquí|aqui|clique aqui
qui|clicca qui|klik hier|tutaj|kliknij tutaj|здесь|сюда|ссылке|по ссылке|buraya tıklayın|buraya|tıklayın
这里|此处|点击这里|點此|こちら|ここ|여기|여기를 클릭|هنا|اضغط هنا|यहाँ|यहां|यहाँ क्लिक करें
"""


def words(listed: str) -> list[str]:
    """The words of one of the lists above."""
    return [word.strip() for line in listed.split("\n") for word in line.split("|") if word.strip()]


def pattern(listed: Iterable[str]) -> str:
    """A regular expression for any of these words, the longest first.

    Words share their beginnings, so that a search tries a few letters at each place and not each word.
    """
    root: dict[str, dict] = {}  # type: ignore[type-arg] # a tree of itself cannot be written down
    for word in listed:
        node = root
        for token in _tokens(word):
            node = node.setdefault(token, {})
        node[""] = {}
    return _written(root)


def ascii_alone(listed: Iterable[str]) -> list[str]:
    """Those that can stand in a text of ASCII."""
    return [word for word in listed if word.isascii()]


def _tokens(word: str) -> list[str]:
    begins, ends = word.startswith("^"), word.endswith("$")
    bare = word[begins : len(word) - ends]
    letters = [r"[\s_\-]{0,2}" if letter == " " else re.escape(letter) for letter in bare]
    return [*([r"\b"] if begins else []), *letters, *([r"\b"] if ends else [])]


def _written(node: dict[str, dict]) -> str:  # type: ignore[type-arg] # likewise
    branches = [token + _written(rest) for token, rest in node.items() if token]
    if not branches:
        return ""
    joined = branches[0] if len(branches) == 1 and "" not in node else f"(?:{'|'.join(branches)})"
    return joined + "?" if "" in node else joined
