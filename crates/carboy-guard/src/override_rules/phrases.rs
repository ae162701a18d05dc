//! The built-in patterns: `(regex, category, confidence)`. They are matched against folded text: ASCII in lower case, blanks
//! single, no accents. Their order is the order in which categories are told.

pub(super) struct Phrase {
    pub regex: &'static str,
    pub category: &'static str,
    pub confidence: u8,
}

const fn phrase(category: &'static str, confidence: u8, regex: &'static str) -> Phrase {
    Phrase { regex, category, confidence }
}

const OVERRIDE: &str = "instruction_override";
const EXTRACTION: &str = "prompt_extraction";
const ROLE: &str = "role_hijack";
const DELIMITER: &str = "delimiter_injection";
const EVASION: &str = "safety_bypass";

pub(super) const PHRASES: &[Phrase] = &[
    phrase(
        OVERRIDE,
        90,
        r"\b(?:ignore|disregard|forget|override|bypass|overrule|discard|neglect|skip|drop)(?: about)?(?: all| any| each| every| everything| completely)?(?: of)?(?: the| your| my| these| those| its)? ?(?:(?:previous|prior|above|earlier|preceding|former|foregoing|past|original|initial|existing|current|system|other|safety|given|internal) ?(?:and |or )?){1,3}(?:\w{1,16} )?(?:instructions?|instrctions|rules?|guidelines?|prompts?|directions?|directives?|commands?|orders given|guidance|restrictions?|training|programming|polic(?:y|ies)|constraints?|context|text|words|assignments?|messages? (?:from|in|of) the (?:system|developer))\b",
    ),
    phrase(
        OVERRIDE,
        90,
        r"\b(?:ignore|disregard|forget|override|bypass|overrule|disobey)(?: all| any| everything| every)?(?: of)? (?:your|these|those|all|any|ur|the) (?:\w{1,16} )?(?:instructions?|rules|guidelines?|programming|restrictions?|safeguards?|guardrails?|system prompt|directives?|safety (?:filters?|measures?)|content polic(?:y|ies))\b",
    ),
    phrase(
        OVERRIDE,
        90,
        r"\b(?:ignore|disregard|forget) (?:everything|anything|all|all that|what)(?: that)? (?:(?:you (?:were|have been|are)|you've been|i|we|they|anyone|was|has been|been)(?: have| has)? (?:told|said|taught|instructed|given|trained|written)|(?:written )?(?:above|before this|prior|previously|so far))\b",
    ),
    phrase(
        OVERRIDE,
        85,
        r"\b(?:do not|don't|stop|no longer|never|quit|cease)(?: have to| need to)? (?:follow|obey|listen to|adhere to|comply with|following|obeying)(?: to)? (?:the |your |any |all )?(?:\w{1,16} )?(?:previous|prior|above|earlier|system|original|instructions?|rules|guidelines?|directives)\b",
    ),
    phrase(
        OVERRIDE,
        80,
        r"\b(?:these|the following|my|this) (?:new )?(?:instructions?|rules|message|prompt|orders?) (?:override|overrides|supersede|supersedes|replace|replaces|take precedence over|takes precedence over)\b",
    ),
    phrase(
        OVERRIDE,
        70,
        r"(?:^|[.:;!?#\n>\]] ?)(?:your )?new (?:system )?(?:instructions?|directives?) ?(?:follow|are|is|:)",
    ),
    phrase(
        OVERRIDE,
        60,
        r"\bfrom now on,? (?:you(?:'ll| will| are| must| shall| should|'re)?|act|respond|answer|ignore|your) ",
    ),
    phrase(
        OVERRIDE,
        60,
        r"\byour (?:real|actual|true|new|only) (?:instructions?|task|goal|purpose|mission|objective|directive) (?:is|are)\b",
    ),
    phrase(
        OVERRIDE,
        90,
        r"\b(?:ignore[zr]?|oublie[zr]?) (?:\w{1,12} ){0,9}(?:instructions?|consignes?|regles)\b|\b(?:ignoriere?n?|vergiss|vergessen sie|missachte) (?:\w{1,12} ){0,4}(?:anweisungen|instruktionen|regeln|befehle)\b|\b(?:ignora|ignore|olvida|olvide|esquece|esqueca) (?:\w{1,12} ){0,4}(?:instrucciones|ordenes|reglas|instrucoes|regras)\b|\b(?:ignora|dimentica) (?:\w{1,12} ){0,4}(?:istruzioni|regole)\b|\bnegeer (?:\w{1,12} ){0,4}(?:instructies|regels)\b",
    ),
    phrase(
        OVERRIDE,
        90,
        r"(?:忽略|无视|忘记|無視|忘掉).{0,30}(?:指令|指示|说明|规则|提示|設定|规定)|(?:指示|命令|指令|ルール).{0,18}(?:無視|忘れ)|(?:지시|명령|규칙).{0,24}(?:무시|잊)",
    ),
    phrase(
        OVERRIDE,
        90,
        r"(?:игнориру|проигнорируй|игнорировать|забудь|отбрось|пренебрег)\S{0,16} .{0,80}(?:инструкци|указани|команд|правил)|(?:تجاهل|انس).{0,40}(?:التعليمات|الاوامر|الأوامر)|निर्देश.{0,60}(?:अनदेखा|अनदेखी|नजरअंदाज|भूल)|\babaikan .{0,30}(?:instruksi|perintah|petunjuk)|\btalimatlar\S{0,12} .{0,20}(?:unut|yok say|dikkate alma)|\bzignoruj .{0,30}(?:instrukcj|polece)",
    ),
    phrase(
        EXTRACTION,
        85,
        r"\b(?:reveal|print|show|display|output|repeat|leak|dump|expose|disclose|tell|give|share|write|recite|send|reproduce|paste|copy|provide|state|say|list|return|echo|spell out|summari[sz]e|translate|encode|describe|see|know)(?: out| down| back)?(?: to)?(?: me| us)?(?: what| exactly| verbatim| the)?(?: are| is| was)?(?: exact| full| entire| complete| whole| all)?(?: of)?(?: text of| content of| contents of| words of)?(?: all| of)? (?:your|the|ur) (?:\w{1,16} ){0,2}?(?:system (?:prompt|message|instructions?)|initial (?:prompt|instructions?)|hidden (?:prompt|instructions?|rules)|secret (?:prompt|instructions?)|original (?:prompt|instructions?)|developer (?:message|prompt|instructions?)|internal (?:prompt|instructions?|rules|guidelines)|pre-?prompt|instructions? (?:verbatim|word for word))\b",
    ),
    phrase(
        EXTRACTION,
        80,
        r"\b(?:what|how|which)(?: is|'s| are| was| were| does|)(?: in)? (?:your|the) (?:\w{1,16} )?(?:system prompt|system message|initial prompt|hidden prompt|hidden instructions?|original prompt|developer message|secret instructions?)\b",
    ),
    phrase(
        EXTRACTION,
        70,
        r"\b(?:reveal|print|show|display|output|repeat|leak|dump|expose|disclose|recite|tell me)(?: me| us)?(?: all)?(?: of)? your (?:\w{1,16} )?(?:prompt|instructions|rules|guidelines|configuration|programming|secrets?)\b",
    ),
    phrase(
        EXTRACTION,
        75,
        r"\b(?:repeat|print|output|show|copy|echo|write|translate)(?: me| out| down| back)?(?: all| every)?(?: of)?(?: the)? (?:text|words?|everything|sentences?|lines?|content|message|instructions?|above)(?: that (?:is|are|was|came|appears?))? (?:above|before (?:this|my)|preceding|from the (?:beginning|start|top) of (?:this|the|our) (?:prompt|conversation|chat|context)|verbatim)\b",
    ),
    phrase(
        EXTRACTION,
        75,
        r"\bwhat (?:instructions|rules|prompt|orders) (?:were|was|have|did|are) (?:you|they|your (?:developers?|creators?|makers?)) (?:given|been given|told|follow|following|give you|gave you)\b|\bhow (?:were|are) you (?:instructed|prompted|programmed to)\b",
    ),
    phrase(EXTRACTION, 60, r"\b(?:your|the) (?:system prompt|pre-?prompt)\b|\bbegin(?:ning|s)? with .{0,4}you are\b"),
    phrase(
        ROLE,
        80,
        r"\b(?:you are|you're|u are|you will be|you shall be) (?:now |going to be |about to be |no longer |henceforth )(?:a |an |the |in |called |named |acting |operating |running |free|my |dan\b|unrestricted|unfiltered|bound|chatgpt|an? ai)",
    ),
    phrase(
        ROLE,
        90,
        r"\bdo anything now\b|\bjail ?-?broken\b|\bjailbreak (?:mode|yourself)\b|\b(?:dan|stan|dude|aim|evil|devmode|god) mode (?:enabled|activated|on)\b|\bdan (?:mode|jailbreak)\b|\b(?:act|respond|answer|behave|reply) as dan\b",
    ),
    phrase(
        ROLE,
        75,
        r"\b(?:enter|enable|activate|switch (?:in)?to|turn on|go into|engage|simulate|unlock|be in) (?:the )?(?:developer|debug|god|admin(?:istrator)?|maintenance|root|sudo|jailbreak|unrestricted|unfiltered|opposite|evil|chaos) mode\b|\b(?:developer|god|sudo) mode (?:enabled|activated|on|output)\b",
    ),
    phrase(
        ROLE,
        70,
        r"\b(?:act|behave|respond|answer|reply|operate|function|roleplay|role-play|pretend)(?: as| like| to be)(?: if you (?:are|were|have)| though you (?:are|were|have))? (?:an? |my |the )?(?:\w{1,16} )?(?:unrestricted|unfiltered|uncensored|evil|amoral|jailbroken|unethical|no (?:rules|restrictions|limits)|system administrator|different ai|ai (?:without|with no))\b",
    ),
    phrase(
        ROLE,
        60,
        r"\b(?:pretend|imagine|suppose|assume)(?: that)? (?:you|your|there are)(?: are| have| were|'re)? (?:not |no |without )(?:an? )?(?:ai|rules|restrictions|limits?|limitations|filters?|guidelines|language model|bound)\b",
    ),
    phrase(
        ROLE,
        60,
        r"\bi am (?:your|the) (?:developer|creator|administrator|admin|programmer|system administrator|owner of this (?:bot|system|ai))\b|\bas (?:your|the) (?:developer|creator|system administrator|administrator),? (?:i|you)\b",
    ),
    phrase(
        ROLE,
        55,
        r"\b(?:i want you to|you will|you must|please|you are going to|you should|let's have you) (?:now )?(?:act|pretend|roleplay|role-play|play the role|immerse yourself|take on the role|simulate) (?:as|to be|of|into) .{0,200}(?:never (?:refuse|break character|say no)|no (?:restrictions|limits|filters?|rules|morals?|ethic)|without (?:any )?(?:restrictions|limits|limitations|filters?|rules|moral|ethic)|stay in character|break character|(?:does|do) not (?:have|follow) (?:any )?(?:rules|guidelines|restrictions|moral|ethic)|unfiltered|amoral|uncensored|anything i (?:ask|say))",
    ),
    phrase(
        DELIMITER,
        90,
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext|start_header_id|end_header_id|eot_id)\|>|\[/?inst\]|<</?sys>>|\[/?system\]|</?(?:system|system_prompt|critical_rules|instructions|assistant|tool_result|function_results|user_input|user_message)>",
    ),
    phrase(
        DELIMITER,
        80,
        r"(?:-{2,}|={2,}|#{2,}|\]|\[|<|\() ?(?:end|start|begin|stop)(?:ning)?(?: of)?(?: the)? (?:system|user|previous|new|original|current)? ?(?:prompt|instructions?|message|input|context|rules|query)",
    ),
    phrase(
        DELIMITER,
        75,
        r"(?:^|\n) ?(?:#{1,4} ?)?(?:system|developer|assistant|\[system\]|system (?:message|note|override|update|alert))(?: \w{1,16})? ?: ?\S",
    ),
    phrase(
        EVASION,
        75,
        r"\b(?:disable|remove|lift|turn off|switch off|bypass|circumvent|ignore|drop|get around) (?:all |any |the |your |of )*(?:safety|content|security|ethical|moral|built-in|openai|anthropic)? ?(?:restrictions|limitations|safety (?:features|checks|filters?|protocols?|guidelines)|filters|guardrails|safeguards|censorship|content polic(?:y|ies)|security (?:checks|protocols?|measures))\b",
    ),
    phrase(
        EVASION,
        70,
        r"\b(?:unrestricted|unfiltered|uncensored|amoral|unethical) (?:ai|assistant|model|version|response|responses|answers?|chatbot|bot|language model)\b|\bnever (?:refuse|decline) (?:any|a|to answer|my|an?) ?(?:request|instruction|question|order)?",
    ),
    phrase(
        EVASION,
        60,
        r"\b(?:without|no|free (?:of|from)|regardless of|not bound by) (?:any |all |the |your )?(?:ethical|moral|content|safety|openai|policy|legal)(?: or (?:moral|ethical|legal|safety))? (?:restrictions?|guidelines?|constraints?|polic(?:y|ies)|considerations?|limitations?|concerns?|filters?|principles)\b",
    ),
    phrase(
        EVASION,
        50,
        r"\b(?:do not|don't|never) (?:tell|inform|mention|alert|notify)(?: this| it| anything)?(?: to)? (?:the )?(?:user|human|operator|developers?)\b|\bwithout (?:telling|informing|notifying|alerting|asking) (?:the )?(?:user|human|operator)\b",
    ),
];

/// Matched against letters and figures alone, so that blanks, dashes or dots between letters hide nothing.
pub(super) const SQUEEZED: &[Phrase] = &[
    phrase(
        OVERRIDE,
        90,
        r"(?:ignore|disregard|forget|override|bypass)(?:all|any|every)?(?:of)?(?:the|your|my|these|those)?(?:previous|prior|above|earlier|preceding|original|system)(?:instructions?|rules?|guidelines?|prompts?|directions?|directives?|commands?)",
    ),
    phrase(
        EXTRACTION,
        85,
        r"(?:reveal|print|show|display|output|repeat|leak|tell|give)(?:me)?(?:your|the)(?:full|entire|exact|hidden|secret)?(?:systemprompt|hiddeninstructions|initialprompt|secretinstructions|developermessage)",
    ),
    phrase(ROLE, 90, r"doanythingnow|enable(?:developer|god|dan|jailbreak)mode|youarenowdan"),
];
