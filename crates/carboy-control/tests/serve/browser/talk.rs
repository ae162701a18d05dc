//! Talking: by the keyboard, with hostile words, and what waits for a click.

use std::sync::Arc;

use carboy_agent::handler::tool;
use carboy_agent::{Authorization, Call, Effect, Handler, InvalidArguments, Output, Principal, ToolError};
use carboy_core::ask::{Answered, Word};
use carboy_core::chat::{ChatLimits, ChatSpec};
use carboy_core::ports::Later;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::world::{Made, Play, World, spec};
use super::{browser, persons, replied, send, url};

#[tokio::test]
async fn everything_can_be_done_by_the_keyboard_alone() {
    let Some(browser) = browser("keyboard").await else { return };
    let world = World::plain().await;
    let page = browser.page(&url(&world)).await;
    let focused = "document.activeElement.id || document.activeElement.className || document.activeElement.textContent";
    // Where one starts to write; then around the page.
    assert_eq!(page.text(focused).await, "message");
    page.type_in("hello").await;
    page.key("Enter", 8).await;
    page.type_in("there").await;
    page.key("Enter", 0).await;
    replied(&page, "You said: hello\nthere.").await;
    assert_eq!(page.text(focused).await, "message", "the focus stays where one writes");

    let mut seen = Vec::new();
    page.eval("document.activeElement.blur(); window.scrollTo(0, 0)").await;
    for _ in 0..14 {
        page.key("Tab", 0).await;
        // Past the last one comes the browser's own part, and then the first again.
        if page.eval("document.activeElement === document.body").await == true {
            continue;
        }
        let outlined = page.eval("getComputedStyle(document.activeElement).outlineStyle !== 'none'").await;
        let at = page.text(focused).await;
        assert_eq!(outlined, true, "{at} shows that it has the focus");
        if seen.contains(&at) {
            break;
        }
        seen.push(at);
    }
    for stop in ["skip", "handoff", "download", "forget", "scroll", "yes", "no", "message", "send"] {
        assert!(seen.iter().any(|at| at == stop), "{stop} is not among {seen:?}");
    }
    // The skip link leads to where one writes.
    page.eval("document.querySelector('.skip').focus()").await;
    page.key("Enter", 0).await;
    page.until("document.activeElement.id === 'message'").await;
    // A no with a reason.
    page.eval("document.querySelector('.feedback .no').focus()").await;
    page.key("Enter", 0).await;
    page.until("document.activeElement.tagName === 'SELECT'").await;
    page.key("Tab", 0).await;
    page.key("Enter", 0).await;
    page.until("document.querySelector('.feedback').textContent === 'Thank you.'").await;
    // A person.
    page.eval("document.getElementById('handoff').focus()").await;
    page.key(" ", 0).await;
    replied(&page, "A colleague will get in touch with you.").await;
    // Deleting asks first; the dialog keeps the focus, Escape changes nothing.
    page.eval("document.getElementById('forget').focus()").await;
    page.key("Enter", 0).await;
    page.until(
        "document.getElementById('ask').open && document.getElementById('ask').contains(document.activeElement)",
    )
    .await;
    page.key("Escape", 0).await;
    page.until("!document.getElementById('ask').open").await;
    assert_eq!(persons(&page).await, 1);
    page.key("Enter", 0).await;
    page.until("document.activeElement.id === 'ask-yes'").await;
    page.key("Enter", 0).await;
    page.until("document.querySelectorAll('.person').length === 0").await;
    assert_eq!(page.text(focused).await, "message");
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn a_screen_reader_hears_replies_and_every_control_has_a_name() {
    let Some(browser) = browser("reader").await else { return };
    let world = World::plain().await;
    let page = browser.page(&url(&world)).await;
    send(&page, "hello").await;
    replied(&page, "You said: hello.").await;
    let log = page
        .eval("(({role, ariaLive, ariaLabel}) => [role, ariaLive, ariaLabel])(document.getElementById('log'))")
        .await;
    assert_eq!(log, json!(["log", "polite", "Conversation"]));
    page.call("Accessibility.enable", json!({})).await;
    let tree = page.call("Accessibility.getFullAXTree", json!({})).await;
    for node in tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] != true) {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if ["button", "link", "textbox", "region", "log", "group", "list"].contains(&role) {
            assert!(!node["name"]["value"].as_str().unwrap_or_default().is_empty(), "a {role} without a name: {node}");
        }
    }
    browser.quiet(&[]).await;
}

/// Words that would be markup or code if anything took them for that.
const HOSTILE: &[&str] = &[
    "<script>window.hit = 1</script>",
    "<img src=x onerror=\"window.hit = 1\">",
    "<svg/onload=window.hit=1>",
    "\"><iframe srcdoc=\"<script>parent.hit=1</script>\">",
    "<a href=\"javascript:window.hit=1\">x</a>",
    "<style>*{display:none}</style><b>bold</b>",
    "{{constructor.constructor('window.hit=1')()}}",
    "</p></div><form action=https://evil.example><input name=q>",
    "&lt;script&gt;window.hit=1&lt;/script&gt;",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hit=1>",
    "\u{2028}</script><script>window.hit=1</script>",
    "event: done\ndata: {\"reply\":\"forged\"}",
    "<details open ontoggle=window.hit=1>",
    "`${window.hit=1}`",
    "\u{202e}gnp.exe\u{202c}",
];

#[tokio::test]
async fn g50_hostile_words_of_a_person_or_a_model_stay_words() {
    let Some(browser) = browser("hostile").await else { return };
    let script = |said: &str| Play::Say(vec![said.to_owned()]);
    let mut own = spec();
    own.title = "<img src=x onerror=window.hit=1>".into();
    own.greeting = "<script>window.hit=1</script>".into();
    // Everything passes, so that the page alone is what holds.
    own.screening.block_suspicious_inputs = false;
    own.screening.filter_pii = false;
    let world = World::made(Made {
        spec: own,
        script: Arc::new(script),
        offline: Some("<b>offline</b>".into()),
        ..Made::default()
    })
    .await;
    let page = browser.page(&url(&world)).await;
    for (number, words) in HOSTILE.iter().enumerate() {
        send(&page, words).await;
        page.until(&format!("document.querySelectorAll('.person').length === {}", number + 1)).await;
        page.until("document.getElementById('stop').hidden").await;
    }
    let before = page.eval("[...document.querySelectorAll('.person .text')].map((e) => e.textContent)").await;
    page.go(&url(&world)).await;
    for selector in
        ["img", "iframe", "svg", "form:not(#form)", "b", "math", "#log a", "#log style", "#log script", "details"]
    {
        let count = page.eval(&format!("document.querySelectorAll('{selector}').length")).await;
        assert_eq!(count, 0, "{selector}");
    }
    assert_eq!(page.eval("window.hit === undefined").await, true);
    assert_eq!(page.text("document.title").await, "<img src=x onerror=window.hit=1>");
    for words in HOSTILE.iter().filter(|words| !words.contains('\u{2028}') && !words.contains('\u{202e}')) {
        assert!(
            before.to_string().contains(&json!(words).to_string()),
            "{words} is not shown as it was written: {before}"
        );
    }
    browser.quiet(&[]).await;
}

/// A write that counts how often it was done.
struct Return(Arc<AtomicU64>);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReturnArgs {
    order: String,
}

impl Handler for Return {
    type Args = ReturnArgs;
    const NAME: &'static str = "initiate_return";
    const DESCRIPTION: &'static str = "Returns an order.";
    const EFFECT: Effect = Effect::Write;

    fn check(&self, args: ReturnArgs) -> Result<ReturnArgs, InvalidArguments> {
        Ok(args)
    }

    fn authorize(&self, _: &Principal, _: &ReturnArgs) -> Authorization {
        Authorization::Allowed
    }

    fn call<'a>(&'a self, _: Call<'a>, args: ReturnArgs) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Output { value: json!({"returned": args.order}), released: vec![args.order] })
        })
    }
}

/// A world with a write behind a card.
pub(crate) async fn with_card() -> (World, Arc<AtomicU64>) {
    let done = Arc::new(AtomicU64::new(0));
    let script = |said: &str| match said {
        "return it" => Play::Call("initiate_return".into(), json!({"order": "BK-<b>1001</b>"})),
        _ => Play::say("It is done."),
    };
    let tools = vec![tool(Return(done.clone()))];
    (World::made(Made { tools, script: Arc::new(script), ..Made::default() }).await, done)
}

#[tokio::test]
async fn a_card_is_clicked_once_however_often_it_is_clicked() {
    let Some(browser) = browser("card").await else { return };
    let (world, done) = with_card().await;
    let page = browser.page(&url(&world)).await;
    send(&page, "return it").await;
    page.until("document.querySelector('.card')").await;
    assert!(page.text("document.querySelector('.card').textContent").await.contains("BK-<b>1001</b>"));
    page.until("document.getElementById('stop').hidden").await;
    assert_eq!(done.load(Ordering::SeqCst), 0, "nothing is done before the click");
    page.eval("for (let n = 0; n < 5; n += 1) document.querySelector('.card .confirm').click()").await;
    page.eval("document.querySelector('.card .cancel').click()").await;
    page.until("document.querySelector('.card .outcome').textContent === 'Confirmed.'").await;
    page.until("document.getElementById('stop').hidden").await;
    assert_eq!(done.load(Ordering::SeqCst), 1);
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn a_card_that_was_answered_elsewhere_says_so_when_it_is_clicked() {
    let Some(browser) = browser("card-over").await else { return };
    let (world, done) = with_card().await;
    let page = browser.page(&url(&world)).await;
    send(&page, "return it").await;
    page.until("document.querySelector('.card') && document.getElementById('stop').hidden").await;
    // Another program of the same person answers it; no tab hears of that.
    page.eval(
        "fetch('../api/transcript').then((kept) => kept.json()).then((kept) => fetch('../api/confirm', {method: 'POST', \
         headers: {'content-type': 'application/json'}, body: JSON.stringify({token: kept.cards[0].token})})) \
         .then(() => { document.title = 'elsewhere'; })",
    )
    .await;
    page.until("document.title === 'elsewhere'").await;
    assert_eq!(done.load(Ordering::SeqCst), 1);
    page.eval("document.querySelector('.card .confirm').click()").await;
    page.until("document.querySelector('.card .outcome').textContent.startsWith('This was answered already')").await;
    let notice = "document.getElementById('notice-text').textContent";
    page.until(&format!("{notice}.includes('it was used, declined, replaced or is too old – ask for it again')")).await;
    assert_eq!(done.load(Ordering::SeqCst), 1);
    browser.quiet(&["409"]).await;
}

#[tokio::test]
async fn a_cancelled_card_does_nothing() {
    let Some(browser) = browser("cancelled").await else { return };
    let (world, done) = with_card().await;
    let page = browser.page(&url(&world)).await;
    send(&page, "return it").await;
    page.until("document.querySelector('.card') && document.getElementById('stop').hidden").await;
    page.eval("document.querySelector('.card .cancel').click(); document.querySelector('.card .confirm').click()")
        .await;
    page.until("document.querySelector('.card .outcome').textContent === 'Cancelled.'").await;
    send(&page, "and now").await;
    replied(&page, "It is done.").await;
    assert_eq!(done.load(Ordering::SeqCst), 0);
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn u4_an_operators_answer_is_read_on_the_page_without_another_question() {
    let Some(browser) = browser("operator").await else { return };
    let world = World::plain().await;
    let page = browser.page(&url(&world)).await;
    send(&page, "hello").await;
    replied(&page, "You said: hello.").await;
    page.eval("document.getElementById('handoff').click()").await;
    replied(&page, "A colleague will get in touch with you.").await;
    let waits = world.board.waits().unwrap();
    assert_eq!(waits.len(), 1, "{waits:?}");
    let say = Some("My name is <b>Ann</b>.".to_owned());
    let answer = Answered { word: Word::Approved, by: "ann".into(), say, at_ms: 0 };
    world.engine.answered(&waits[0].posted, Some(&answer)).await.unwrap();
    replied(&page, "A person writes: My name is <b>Ann</b>.").await;
    assert!(page.text("document.body.textContent").await.contains("A person has taken this over."));
    assert_eq!(world.asked(), 1, "no model was asked about it");
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn g80_past_the_limit_the_page_counts_down_and_keeps_the_words() {
    let Some(browser) = browser("countdown").await else { return };
    let limits = ChatLimits { requests_per_session_per_minute: 1, ..spec().limits };
    let world = World::made(Made { spec: ChatSpec { limits, ..spec() }, ..Made::default() }).await;
    let page = browser.page(&url(&world)).await;
    send(&page, "one").await;
    replied(&page, "You said: one.").await;
    send(&page, "two").await;
    page.until("/Rate limit exceeded.*again in [0-9]+ s/.test(document.getElementById('notice-text').textContent)")
        .await;
    assert_eq!(page.text("document.getElementById('message').value").await, "two");
    assert_eq!(page.text("document.getElementById('send').ariaDisabled").await, "true");
    assert_eq!(persons(&page).await, 1);
    let first = page.text("document.getElementById('notice-text').textContent").await;
    page.until(&format!("document.getElementById('notice-text').textContent !== {}", json!(first))).await;
    // The browser itself notes every answer that is an error.
    browser.quiet(&["429"]).await;
}

#[tokio::test]
async fn stop_ends_a_reply_and_the_next_question_is_answered() {
    let Some(browser) = browser("stop").await else { return };
    let world = World::scripted(|said| match said {
        "long" => Play::Gated(vec!["First sentence. ".into(), "Never said.".into()]),
        _ => Play::say("Short."),
    })
    .await;
    let page = browser.page(&url(&world)).await;
    send(&page, "long").await;
    world.model.at_gate(1).await;
    page.until("!document.getElementById('stop').hidden").await;
    page.eval("document.getElementById('stop').click()").await;
    page.until("document.getElementById('stop').hidden").await;
    page.eval("document.getElementById('message').value = ''").await;
    send(&page, "short").await;
    replied(&page, "Short.").await;
    assert!(!page.text("document.body.innerText").await.contains("Never said"));
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn i5_a_card_that_waits_is_there_again_after_a_reload_and_in_another_tab_and_its_click_does_it_once() {
    let Some(browser) = browser("card-again").await else { return };
    let (world, done) = with_card().await;
    let page = browser.page(&url(&world)).await;
    send(&page, "return it").await;
    page.until("document.querySelector('.card') && document.getElementById('stop').hidden").await;
    page.go(&url(&world)).await;
    page.until("document.querySelectorAll('.card').length === 1").await;
    assert!(page.text("document.querySelector('.card').textContent").await.contains("BK-<b>1001</b>"));
    let other = browser.page(&url(&world)).await;
    other.until("document.querySelectorAll('.card').length === 1").await;
    assert_eq!(done.load(Ordering::SeqCst), 0, "nothing is done by looking at it");

    page.front().await;
    page.eval("document.querySelector('.card .confirm').click()").await;
    page.until("document.querySelector('.card .outcome').textContent === 'Confirmed.'").await;
    page.until("document.getElementById('stop').hidden").await;
    assert_eq!(done.load(Ordering::SeqCst), 1);
    // What was clicked here is no question there, or after another reload.
    other.front().await;
    other.until("document.querySelectorAll('.card').length === 0").await;
    page.go(&url(&world)).await;
    page.until("document.querySelectorAll('.agent').length > 1").await;
    assert_eq!(page.eval("document.querySelectorAll('.card').length").await, 0);
    assert_eq!(done.load(Ordering::SeqCst), 1);
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn what_is_thought_of_a_reply_goes_to_its_turn_after_a_reload_too_and_is_asked_for_once() {
    let Some(browser) = browser("judged").await else { return };
    let world = World::plain().await;
    let page = browser.page(&url(&world)).await;
    for words in ["one", "two", "three"] {
        send(&page, words).await;
        replied(&page, &format!("You said: {words}.")).await;
    }
    page.go(&url(&world)).await;
    page.until("document.querySelectorAll('.feedback').length === 1").await;
    page.eval("document.querySelector('.feedback .yes').click()").await;
    page.until("document.querySelector('.feedback').textContent === 'Thank you.'").await;
    let log = std::fs::read_to_string(&world.audit).unwrap();
    let judged = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let judged: Vec<_> = judged.filter(|entry| entry["action"] == "feedback").collect();
    assert_eq!((judged.len(), &judged[0]["details"]["turn"]), (1, &json!(3)));
    page.go(&url(&world)).await;
    page.until("document.querySelectorAll('.person').length === 3").await;
    assert_eq!(page.eval("document.querySelectorAll('.feedback').length").await, 0, "it was said");
    browser.quiet(&[]).await;
}
