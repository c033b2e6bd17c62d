"""Function words by language: articles, pronouns, prepositions, conjunctions, auxiliaries, question words. Short on purpose.

BM25's idf already makes little of frequent words; a list saves postings and time, and spares questions their "what is the". Words that
carry a sense of their own (numbers, nouns, negations beyond the plainest) are left in. Written down for this project from the languages'
grammars, except English, whose 33 words are those that Lucene's EnglishAnalyzer leaves out. They are in the form that the analysis gives
(case folded, so ß is ss), whole words, not stems.
"""

from __future__ import annotations

STOP_WORDS = {
    "english": """
        a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
        will with
    """,
    "german": """
        der die das den dem des ein eine einen einem einer eines und oder aber denn als wie wenn dass ob weil da so auch nur
        noch schon sehr in im an am auf aus bei beim mit nach von vom vor zu zum zur über unter durch für gegen ohne um bis seit
        während zwischen ich du er sie es wir ihr mich dich ihn uns euch mir dir ihm ihnen sich mein dein sein seine seinen
        seinem seiner seines ihre ihren ihrem ihrer ihres unser dieser diese dieses diesen diesem jener jene jenes welcher
        welche welches welchen welchem man was wer wo wann warum ist sind war waren bin bist wird werden wurde wurden worden hat
        haben hatte hatten kann können konnte soll muss nicht kein keine hier dort dann
    """,
    "french": """
        le la les l un une des du de d à au aux et ou mais donc or ni car que qui quoi dont où si comme en dans par pour sur
        sous avec sans entre vers chez depuis pendant je tu il elle on nous vous ils elles me te se lui leur leurs y mon ma mes
        ton ta tes son sa ses notre nos votre vos ce cet cette ces cela ça quel quelle quels quelles est sont était étaient été
        être suis es sommes êtes sera ont a ai as avait avaient avoir eu ne pas plus j m t s c n qu aussi
    """,
    "spanish": """
        el la los las lo un una unos unas de del a al y e o u pero sino que quien quienes cual cuales cuyo cuya en por para con
        sin sobre entre hasta desde hacia según durante como cuando donde si no ni yo tú él ella ello nosotros ellos ellas usted
        ustedes me te se nos os le les mi mis tu tus su sus nuestro nuestra este esta esto estos estas ese esa eso esos esas
        aquel aquella qué quién cuál cuáles cómo cuándo dónde es son era eran fue fueron ser sido está están estaba ha han había
        haber hay más muy ya también
    """,
    "italian": """
        il lo la i gli le l un uno una di a da in con su per tra fra del dello della dei degli delle al allo alla ai agli alle
        dal dallo dalla dai dagli dalle nel nello nella nei negli nelle sul sullo sulla sui sugli sulle e ed o ma se che chi cui
        come quando dove perché non io tu lui lei noi voi loro mi ti si ci vi ne mio mia tuo tua suo sua suoi sue nostro nostra
        questo questa questi queste quello quella quelli quelle quale quali cosa è sono era erano essere stato stata fu ha hanno
        aveva avere ho anche più
    """,
    "portuguese": """
        o a os as um uma uns umas de do da dos das em no na nos nas por pelo pela pelos pelas para com sem sobre entre até desde
        ao aos à às e ou mas que quem qual quais cujo cuja se não como quando onde eu tu ele ela nós vós eles elas você vocês me
        te lhe lhes meu minha teu tua seu sua seus suas nosso nossa este esta isto estes estas esse essa isso esses essas aquele
        aquela aquilo é são era eram foi foram ser sido está estão estava há tem têm ter mais muito já também
    """,
    "dutch": """
        de het een en of maar want dat die dit deze er van in op aan te met voor door bij naar uit over om tot onder tegen
        tussen zonder als dan toen wanneer waar hoe wat wie welke ik jij je hij zij ze wij we jullie u mij me hem haar ons hen
        hun zich mijn jouw zijn onze is was waren ben bent wordt worden werd werden heeft hebben had hadden kan zal zou niet
        geen ook nog al
    """,
    "swedish": """
        en ett den det de dem och eller men att som i på av för till från med om vid under över efter mellan utan genom mot hos
        så när där hur vad vem vilken vilket vilka jag du han hon vi ni mig dig honom henne oss er sig min din sin hans hennes
        dess vår deras denna detta dessa är var vara varit blir blev har hade kan ska skulle inte ej ingen också
    """,
    "norwegian": """
        en ei et den det de dem og eller men at som i på av for til fra med om ved under over etter mellom uten gjennom mot hos
        så når der hvor hva hvem hvilken hvilket hvilke jeg du han hun vi dere meg deg ham henne oss seg min din sin hans hennes
        vår deres denne dette disse er var være vært blir ble har hadde kan skal skulle ikke ingen også å
    """,
    "danish": """
        en et den det de dem og eller men at som i på af for til fra med om ved under over efter mellem uden gennem mod hos så
        når der hvor hvad hvem hvilken hvilket hvilke jeg du han hun vi mig dig ham hende os sig min din sin hans hendes vores
        deres denne dette disse er var være været bliver blev har havde kan skal skulle ikke ingen også
    """,
    "finnish": """
        ja tai mutta että joka jotka jonka jossa jota joiden kun jos kuin niin sekä eli vaan koska vaikka minä sinä hän me te he
        se ne tämä tuo nämä nuo sen sitä siitä siinä tämän tätä tässä niiden hänen heidän minun sinun mikä mitä kuka missä
        milloin miten on ovat oli olivat olla ollut ei eivät eikä myös
    """,
    "hungarian": """
        a az egy és vagy de hogy ha mint is nem ne sem csak már még meg mert aki akik amely amelyek ami amit ez ezt ezek azt
        azok én te ő mi ti ők ki mely hol mikor hogyan van vannak volt voltak lesz lett
    """,
    "romanian": """
        un o unui unei al a ale ai cel cea cei cele și sau dar iar că ca să dacă de la în din pe cu pentru prin fără între până
        după sub eu tu el ea noi voi ei ele îl îi le se își mi ne meu mea său sa lui lor acest această acesta aceasta acești
        aceste acel care ce cine unde când cum este sunt era erau fost fi a au am are avea nu mai și
    """,
    "russian": """
        и в во не на я он она оно они мы вы ты с со к ко о об обо от до из у за по при над под для без между через про а но или
        да же ли бы что чтобы как так то это этот эта эти этого этой этих этом тот та те того той тех кто кого чем который
        которая которое которые которого которой которых где когда если его её ее ей ему им их них мне меня нас нам вас вам себя
        себе свой свою своей свои своего был была было были быть есть будет какой какая какое какие уже ещё еще также
    """,
    "polish": """
        i a oraz lub albo ale że żeby jak gdy jeśli czy w we na z ze do od dla po przy nad pod o u za przez przed między bez ja
        ty on ona ono my wy oni one mnie ciebie go jego jej ją im ich nam was się swój ten ta to te ci tego tej tych tym który
        która które których kto co gdzie kiedy jaki jest są był była było były być nie też także
    """,
    "czech": """
        a i nebo ale že aby jak když jestli zda v ve na z ze do od pro po při nad pod o u za přes před mezi bez s se k ke já ty
        on ona ono my vy oni ony mě mu ho jeho její jejich jim nás vás si svůj ten ta to ti ty toho té těch tím který která
        které kterých kdo co kde kdy jaký je jsou byl byla bylo byli být ne také
    """,
    "turkish": """
        ve veya ya da de ki ile için gibi kadar ama fakat ancak çünkü eğer bir bu şu o bunlar şunlar onlar ben sen biz siz onun
        bunun ne kim hangi nasıl nerede neden mi mı mu mü değil olan olarak olduğu daha en çok her hem
    """,
    "greek": """
        ο η το οι τα του τησ των τον την τουσ τισ ένασ μια ένα και ή αλλά ότι πωσ που αν όταν όπωσ σε στο στη στην στον στα
        στουσ στισ από με για προσ κατά μετά χωρίσ εγώ εσύ αυτόσ αυτή αυτό αυτοί αυτά μου σου μασ σασ τι ποιοσ ποια ποιο είναι
        ήταν έχει έχουν να θα δεν μη μην ωσ
    """,
    "arabic": """
        من إلى الى عن على في مع و أو او ثم أن ان إن أنه انه أنها انها لأن لكن ولكن كما ما ماذا لا لم لن هل هو هي هم هما نحن أنا
        أنت هذا هذه ذلك تلك هؤلاء الذي التي الذين اللذان كان كانت كانوا يكون تكون قد كل بعض أي أين متى كيف عند بين بعد قبل حتى
        منذ خلال له لها لهم به بها فيه فيها منه منها عليه عليها إذا اذا حيث غير
    """,
    "persian": """
        و در به از که این آن با را برای تا بر هم یا اما اگر هر چه چون نیز است بود شد می شود کرد ها های من تو او ما شما
    """,
    "hindi": """
        का की के को में से पर और या है हैं था थी थे हो होता
        यह वह ये वे इस उस इन उन ने कि जो तो ही भी एक लिए तक
        कर द्वारा क्या कौन कहाँ कब कैसे नहीं
    """,
    "indonesian": """
        yang dan atau di ke dari pada untuk dengan oleh dalam adalah itu ini tidak bukan akan telah sudah juga karena saya kamu
        dia kami kita mereka apa siapa mana kapan bagaimana sebagai
    """,
}
