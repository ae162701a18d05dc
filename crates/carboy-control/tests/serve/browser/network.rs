//! A network that drops, a server that is started again, two tabs, two clicks.

use std::sync::Arc;

use super::super::world::{Made, Play, World};
use super::{browser, persons, replied, send, url};

fn gated(said: &str) -> Play {
    match said {
        "slow" => Play::Gated(vec!["First sentence. ".into(), "Second sentence.".into()]),
        _ => Play::say(&format!("You said: {said}.")),
    }
}

const WHOLE: &str = "First sentence. Second sentence.";

#[tokio::test]
async fn a_double_send_is_one_message() {
    let Some(browser) = browser("double").await else { return };
    let world = World::scripted(gated).await;
    let page = browser.page(&url(&world)).await;
    page.type_in("slow").await;
    page.eval("{ const send = document.getElementById('send'); send.click(); send.click(); send.click(); }").await;
    page.key("Enter", 0).await;
    world.model.at_gate(1).await;
    page.type_in("slow").await;
    page.key("Enter", 0).await;
    world.model.gate.add_permits(2);
    replied(&page, WHOLE).await;
    assert_eq!((persons(&page).await, world.asked()), (1, 1));
    assert_eq!(
        page.text("document.getElementById('message').value").await,
        "slow",
        "what was written meanwhile is kept"
    );
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn a_network_that_drops_in_mid_reply_costs_nothing_and_sends_nothing_twice() {
    let Some(browser) = browser("drop").await else { return };
    let world = World::scripted(gated).await;
    let page = browser.page(&url(&world)).await;
    send(&page, "slow").await;
    world.model.at_gate(1).await;
    page.offline(true).await;
    page.until("/connection was lost|offline/.test(document.body.innerText)").await;
    world.model.gate.add_permits(1);
    page.offline(false).await;
    page.until("!document.getElementById('notice-action').hidden || document.getElementById('stop').hidden").await;
    page.eval("document.getElementById('notice-action').hidden || document.getElementById('notice-action').click()")
        .await;
    replied(&page, WHOLE).await;
    assert_eq!((persons(&page).await, world.asked()), (1, 1));
    browser.quiet(&["net::ERR_"]).await;
}

#[tokio::test]
async fn a_server_that_is_started_again_in_mid_reply_is_asked_again_only_by_a_click() {
    let Some(browser) = browser("restart").await else { return };
    let made = || Made { script: Arc::new(gated), ..Made::default() };
    let first = made();
    let sessions = first.sessions.clone();
    let world = World::made(first).await;
    let (at, address) = (url(&world), world.address.to_string());
    let page = browser.page(&at).await;
    send(&page, "before").await;
    replied(&page, "You said: before.").await;
    send(&page, "slow").await;
    world.model.at_gate(1).await;
    world.killed().await;
    let world = World::made(Made { sessions, listen: address, ..made() }).await;
    page.until("document.getElementById('notice-action').textContent === 'Send again'").await;
    assert_eq!(world.asked(), 0, "nothing is sent again by itself");
    page.eval("document.getElementById('notice-action').click()").await;
    world.model.at_gate(1).await;
    world.model.gate.add_permits(1);
    replied(&page, WHOLE).await;
    assert_eq!((persons(&page).await, world.asked()), (2, 1));
    page.go(&at).await;
    assert_eq!(persons(&page).await, 2, "and the session of before goes on");
    browser.quiet(&["net::ERR_"]).await;
}

#[tokio::test]
async fn two_tabs_share_one_conversation_and_neither_loses_a_line() {
    let Some(browser) = browser("tabs").await else { return };
    let world = World::scripted(gated).await;
    let one = browser.page(&url(&world)).await;
    let two = browser.page(&url(&world)).await;
    one.front().await;
    send(&one, "slow").await;
    world.model.at_gate(1).await;
    two.front().await;
    send(&two, "two").await;
    world.model.gate.add_permits(1);
    one.until("document.getElementById('stop').hidden").await;
    two.until("document.getElementById('stop').hidden").await;
    for page in [&one, &two] {
        page.until("document.querySelectorAll('.person').length === 2").await;
        let text = page.text("document.getElementById('log').textContent").await;
        assert!(text.contains(WHOLE) && text.contains("You said: two."), "{text}");
    }
    assert_eq!(world.asked(), 2);
    browser.quiet(&[]).await;
}
