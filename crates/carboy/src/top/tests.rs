//! What is drawn, at several sizes; what keys mean; and that no snapshot and no size is too much for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use carboy_control::registry::{Answer, RunRecord};
use carboy_control::snapshot::{Controller, Snapshot, UsageRow};
use carboy_core::audit::Entry;
use carboy_core::budget::{
    Amount, Both, CapKind, CapLine, Count, InFlight, LedgerSnapshot, MeterLine, Node, ReservationId, Scope, Shutdown,
    Standing, Usage,
};
use carboy_core::ids::MeterName;
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};

use super::draw::canvas::Look;
use super::draw::draw;
use super::keys::Key;
use super::plain;
use super::state::{Action, Banner, Effect, Giving, Mode, State};

/// Half past ten in the morning, by a clock that knows no place.
const NOW: u64 = 10 * 3_600_000 + 30 * 60_000;
const WIDE: Look = Look { colour: true, ascii: false, local: utc };
const PLAIN: Look = Look { colour: false, ascii: true, local: utc };
const AREA: Rect = Rect::new(0, 0, 80, 24);

fn utc(ms: u64, _: u64) -> String {
    let seconds = ms / 1000;
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

fn both(tokens: u64) -> Both {
    let amount = Amount::tokens(tokens).unwrap();
    Both { raw: amount, weighted: amount }
}

fn cap(kind: CapKind, cap: u64, spent: u64, held: u64, until_ms: Option<u64>) -> CapLine {
    let [cap, spent, held] = [cap, spent, held].map(|tokens| Amount::tokens(tokens).unwrap());
    let standing = Standing { cap, spent, held, count: Count::Weighted };
    CapLine { kind, standing, since_ms: 0, until_ms, replaced: false }
}

fn meter(spent: u64, held: u64, caps: Vec<CapLine>) -> MeterLine {
    let usage = Usage { input: spent / 4, output: spent / 8, cache_read: spent * 3, cache_write: spent / 10 };
    let rate = [spent / 50, spent / 80, spent / 200];
    let meter = MeterName::parse("anthropic").unwrap();
    let estimated = both(spent / 40);
    MeterLine { meter, spent: both(spent), held: both(held), caps, rate, usage, estimated, requests: spent / 4000 }
}

fn node(scope: Scope, meters: Vec<MeterLine>, children: Vec<Node>) -> Node {
    Node { scope, live: true, meters, in_flight: vec![], children }
}

fn run(name: &str, bottle: &str, state: &str) -> Answer {
    let record = RunRecord {
        run: name.into(),
        bottle: bottle.into(),
        agent: Some("claude".into()),
        command: vec!["claude".into(), "-p".into(), "fix the build".into()],
        task: Some("fix the build".into()),
        supervisor_pid: 1,
        started_ms: NOW - 245_000,
        socket: "/nowhere".into(),
        workdir: "/src".into(),
        tools_of: None,
        terminal: false,
    };
    let why = (state != "running").then(|| "cutoff by the budget: budget of bottle:web for anthropic".to_owned());
    Answer {
        record,
        state: state.into(),
        why,
        shutdown: None,
        stays: false,
        requests: 41,
        refusals: 2,
        failures: 0,
        bytes_out: 0,
        bytes_in: 0,
        tier: "T1".into(),
        ports: vec![],
        grants: vec![],
    }
}

fn entry(seq: u64, at: &str, event: &str, result: &str, details: serde_json::Value) -> Entry {
    let line = serde_json::json!({
        "seq": seq, "timestamp": format!("1970-01-01T{at}.000Z"), "event_type": event, "action": "request",
        "result": result, "run": "r-4f21", "details": details,
        "prev_hash": "0".repeat(64), "hash": "0".repeat(64),
    });
    Entry::parse(line.to_string().as_bytes()).unwrap()
}

fn sample() -> Snapshot {
    let day = Some(24 * 3_600_000);
    let mut flying = node(
        Scope::Run("r-4f21".into()),
        vec![meter(820_000, 64_000, vec![cap(CapKind::Budget, 1_000_000, 820_000, 64_000, None)])],
        vec![],
    );
    flying.in_flight.push(InFlight {
        id: ReservationId(7),
        meter: MeterName::parse("anthropic").unwrap(),
        model: Some("claude-sonnet-4-5".into()),
        age_ms: 12_000,
        hold: both(64_000),
        sent: true,
    });
    let still = node(Scope::Run("r-9c02".into()), vec![meter(40_000, 0, vec![])], vec![]);
    let spent = Scope::Run("r-1e77".into());
    let spent = node(spent, vec![meter(500_000, 0, vec![cap(CapKind::Budget, 500_000, 500_000, 0, None)])], vec![]);
    let web = node(
        Scope::Bottle("web".into()),
        vec![meter(860_000, 64_000, vec![cap(CapKind::Ceiling, 2_000_000, 860_000, 64_000, day)])],
        vec![node(Scope::Agent("claude".into()), vec![meter(860_000, 64_000, vec![])], vec![flying, still])],
    );
    let api = node(Scope::Bottle("api".into()), vec![meter(500_000, 0, vec![])], vec![spent]);
    let host = vec![meter(1_360_000, 64_000, vec![cap(CapKind::Budget, 5_000_000, 1_360_000, 64_000, day)])];
    let host = node(Scope::Host, host, vec![web, api]);
    let models = vec![UsageRow {
        scope: Scope::Run("r-4f21".into()),
        meter: MeterName::parse("anthropic").unwrap(),
        model: Some("claude-sonnet-4-5".into()),
        day: None,
        requests: 200,
        usage: Usage { input: 200_000, output: 100_000, cache_read: 2_000_000, cache_write: 80_000 },
        charged: both(800_000),
        estimated: both(0),
        overrun: both(0),
    }];
    let get = |host: &str| serde_json::json!({"method": "GET", "host": host, "path": "/v1"});
    let mut denied = get("pypi.org");
    denied["reason"] = "no_route".into();
    denied["refusal"] = "x-7qk2".into();
    let log = vec![
        entry(1, "10:28:01", "egress", "allowed", get("api.anthropic.com")),
        entry(2, "10:29:14", "egress", "denied", denied),
        entry(
            3,
            "10:29:20",
            "budget",
            "warned",
            serde_json::json!({"why": "80 % of the budget of run:r-4f21 is spent"}),
        ),
    ];
    Snapshot {
        at_ms: NOW,
        controller: Controller::Here,
        ledger: Some(LedgerSnapshot { at_ms: NOW, host, failing: None, waiting: 1, left_out: 0 }),
        runs: vec![run("r-1e77", "api", "cut off"), run("r-9c02", "web", "paused"), run("r-4f21", "web", "running")],
        blind: None,
        models,
        log: BTreeMap::from([("r-4f21".to_owned(), log)]),
    }
}

fn nothing() -> Snapshot {
    Snapshot {
        at_ms: NOW,
        controller: Controller::Absent,
        ledger: None,
        runs: vec![],
        blind: None,
        models: vec![],
        log: BTreeMap::new(),
    }
}

fn shows(snapshot: Snapshot) -> State {
    let mut state = State::new(false);
    state.show(Arc::new(snapshot));
    state
}

fn selects(state: &mut State, name: &str) {
    state.key(Key::Home, AREA);
    while state.row().unwrap().name() != name {
        let before = state.at();
        state.key(Key::Down, AREA);
        assert!(state.at() > before, "there is no `{name}`");
    }
}

fn drawn(state: &State, look: Look, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame.buffer_mut(), state, look)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(state: &State, look: Look, width: u16, height: u16) -> String {
    plain::text(&drawn(state, look, width, height)).join("\n")
}

fn press(state: &mut State, keys: &str) -> Effect {
    keys.chars().fold(Effect::None, |_, key| state.key(Key::Char(key), AREA))
}

#[test]
fn c17_at_80_columns_it_shows_what_runs_what_is_spent_and_the_selected_run() {
    let mut state = shows(sample());
    selects(&mut state, "r-4f21");
    insta::assert_snapshot!(text(&state, WIDE, 80, 24));
}

#[test]
fn c17_at_120_and_200_columns_it_shows_more_and_not_the_same_wider() {
    let mut state = shows(sample());
    selects(&mut state, "r-4f21");
    let (narrow, wide) = (text(&state, WIDE, 120, 40), text(&state, WIDE, 200, 50));
    insta::assert_snapshot!(narrow);
    insta::assert_snapshot!(wide);
    assert!(narrow.contains("30 MIN") && !narrow.contains("LAST MINUTES") && wide.contains("LAST MINUTES"));
}

#[test]
fn without_unicode_and_colours_it_says_the_same() {
    let mut state = shows(sample());
    selects(&mut state, "r-4f21");
    let buffer = drawn(&state, PLAIN, 80, 24);
    let text = plain::text(&buffer).join("\n");
    assert!(text.is_ascii(), "{text}");
    assert!(buffer.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    insta::assert_snapshot!(text);
}

#[test]
fn no_colour_lies_on_another_so_that_light_terminals_are_readable_too() {
    let buffer = drawn(&shows(sample()), WIDE, 120, 40);
    assert!(buffer.content().iter().all(|cell| cell.bg == Color::Reset));
    assert!(buffer.content().iter().all(|cell| !matches!(cell.fg, Color::White | Color::Black | Color::Gray)));
    // What is nearly spent is told apart by more than its colour.
    assert!(plain::text(&buffer).iter().any(|line| line.contains("!!100%")));
    assert!(buffer.content().iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)));
}

#[test]
fn where_nothing_runs_it_says_what_to_do_next() {
    insta::assert_snapshot!(text(&shows(nothing()), WIDE, 80, 12));
}

#[test]
fn c17_a_controller_that_is_away_is_said_with_the_moment_that_the_figures_are_of() {
    let mut snapshot = sample();
    snapshot.controller = Controller::Away { why: "nobody listens on its socket".into() };
    snapshot.at_ms += 60_000;
    let text = text(&shows(snapshot), WIDE, 100, 24);
    assert!(text.contains("the controller is away: figures are of 10:30:00 (nobody listens on its socket)"), "{text}");
}

#[test]
fn c11_an_action_is_done_after_a_yes_to_the_runs_that_were_asked_about() {
    let mut state = shows(sample());
    selects(&mut state, "web");
    assert_eq!(press(&mut state, "c"), Effect::Draw);
    assert!(text(&state, WIDE, 80, 24).contains("cut off all 2 runs of bottle:web? [y/N]"));
    // Others come and go meanwhile; what was asked stays.
    let mut less = sample();
    less.runs.pop();
    state.show(Arc::new(less));
    let Effect::Act(Action::Stop { how, runs, .. }) = press(&mut state, "y") else { panic!("{:?}", state.mode) };
    let names: Vec<&str> = runs.iter().map(|run| run.record.run.as_str()).collect();
    assert_eq!((how, names), (Shutdown::Cutoff, vec!["r-4f21", "r-9c02"]));
    for (key, how) in [("p", Shutdown::Pause), ("f", Shutdown::Freeze), ("K", Shutdown::Kill)] {
        press(&mut state, key);
        let Mode::Confirm(Action::Stop { how: asked, .. }) = &state.mode else { panic!("{:?}", state.mode) };
        assert_eq!(*asked, how);
        assert_eq!(press(&mut state, "n"), Effect::Draw);
        assert_eq!(state.banner, Some(Banner::Done("nothing was done".into())));
    }
}

#[test]
fn c11_anything_but_a_yes_is_a_no() {
    for key in
        [Key::Enter, Key::Esc, Key::Char('n'), Key::Char('c'), Key::Tab, Key::Up, Key::Click(1, 1), Key::Ctrl('y')]
    {
        let mut state = shows(sample());
        selects(&mut state, "r-4f21");
        press(&mut state, "K");
        assert_eq!(state.key(key, AREA), Effect::Draw, "{key:?}");
        assert_eq!(state.mode, Mode::Tree);
    }
}

#[test]
fn only_what_is_stopped_is_resumed() {
    let mut state = shows(sample());
    selects(&mut state, "r-4f21");
    press(&mut state, "r");
    assert!(matches!(&state.banner, Some(Banner::Failed { what, .. }) if what == "nothing is stopped there"));
    state.key(Key::Home, AREA);
    press(&mut state, "r");
    let Effect::Act(Action::Resume { runs, .. }) = press(&mut state, "y") else { panic!("{:?}", state.mode) };
    assert_eq!(runs.len(), 2);
}

#[test]
fn an_amount_is_typed_for_the_meter_that_binds_most_and_given_by_enter() {
    let mut state = shows(sample());
    selects(&mut state, "r-4f21");
    press(&mut state, "t20x");
    state.key(Key::Backspace, AREA);
    press(&mut state, "0k");
    let screen = text(&state, WIDE, 80, 24);
    assert!(screen.contains("top up run:r-4f21 by: anthropic=200k_"), "{screen}");
    let scope = Scope::Run("r-4f21".into());
    let amount = "anthropic=200k".to_owned();
    let given = Effect::Act(Action::Give { giving: Giving::TopUp, scope, amount });
    assert_eq!(state.key(Key::Enter, AREA), given);
    press(&mut state, "b1M");
    assert_eq!(state.key(Key::Esc, AREA), Effect::Draw);
    assert_eq!(state.mode, Mode::Tree);
}

#[test]
fn read_only_does_nothing_and_says_how() {
    let mut state = State::new(true);
    state.show(Arc::new(sample()));
    for key in ["c", "p", "f", "K", "r", "t", "b"] {
        press(&mut state, key);
        assert_eq!(state.mode, Mode::Tree);
        assert!(matches!(&state.banner, Some(Banner::Failed { next: Some(_), .. })));
    }
    assert!(!text(&state, WIDE, 80, 24).contains("c cut"));
}

#[test]
fn the_filter_keeps_what_it_names_with_what_that_stands_below() {
    let mut state = shows(sample());
    press(&mut state, "/API");
    let names = |state: &State| state.rows.iter().map(|row| row.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&state), ["host", "api", "r-1e77"]);
    state.key(Key::Enter, AREA);
    assert_eq!(press(&mut state, "j"), Effect::Draw);
    state.key(Key::Esc, AREA);
    assert_eq!(state.rows.len(), 7);
    press(&mut state, "/paused");
    assert_eq!(names(&state), ["host", "web", "claude", "r-9c02"]);
    state.key(Key::Esc, AREA);
    press(&mut state, "/nobody");
    assert!(text(&state, WIDE, 80, 24).contains("Nothing is called so"));
}

#[test]
fn sorting_moves_rows_and_not_what_is_selected() {
    let mut state = shows(sample());
    selects(&mut state, "r-4f21");
    let order = |state: &State| state.rows.iter().map(|row| row.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(order(&state)[1], "api");
    press(&mut state, "ss");
    assert_eq!(order(&state)[1], "web");
    assert_eq!(state.row().unwrap().name(), "r-4f21");
    press(&mut state, "S");
    assert_eq!(order(&state)[1], "api");
    assert_eq!(state.row().unwrap().name(), "r-4f21");
}

#[test]
fn a_click_selects_the_row_under_it() {
    let mut state = shows(sample());
    let lines = plain::text(&drawn(&state, WIDE, 80, 24));
    let row = lines.iter().position(|line| line.contains("r-9c02")).unwrap();
    state.key(Key::Click(3, u16::try_from(row).unwrap()), AREA);
    assert_eq!(state.row().unwrap().name(), "r-9c02");
    state.key(Key::Click(3, 0), AREA);
    state.key(Key::Click(300, 300), AREA);
    assert_eq!(state.row().unwrap().name(), "r-9c02");
}

#[test]
fn escape_leaves_one_thing_after_the_other_and_at_last_the_program() {
    let mut state = shows(sample());
    press(&mut state, "/web");
    state.key(Key::Enter, AREA);
    state.key(Key::Enter, AREA);
    assert!(state.zoomed);
    assert_eq!([state.key(Key::Esc, AREA), state.key(Key::Esc, AREA)], [Effect::Draw, Effect::Draw]);
    assert_eq!(state.key(Key::Esc, AREA), Effect::Quit);
    for mode in ["", "c", "/x", "?", "t"] {
        let mut state = shows(sample());
        press(&mut state, mode);
        assert_eq!(state.key(Key::Ctrl('c'), AREA), Effect::Quit);
        assert_eq!(state.key(Key::Ctrl('z'), AREA), Effect::Suspend);
    }
}

#[test]
fn help_names_every_key() {
    let mut state = shows(sample());
    press(&mut state, "?");
    insta::assert_snapshot!(text(&state, WIDE, 80, 24));
}

#[test]
fn one_line_says_what_is_nearest_to_its_end() {
    assert_eq!(
        plain::line(&sample(), WIDE),
        "3 runs, 1 cut off, 1 paused | run:r-1e77 500k/500k 100% | spent | 27.2k/min\n"
    );
    assert_eq!(plain::line(&nothing(), WIDE), "0 runs | 0 spent | no controller\n");
}

#[test]
fn one_frame_is_text_without_keys() {
    let frame = plain::frame(sample(), WIDE, Some(100));
    assert!(frame.contains("r-4f21") && frame.ends_with('\n') && !frame.contains("q quit"), "{frame}");
}

#[test]
fn a_hostile_name_is_shown_and_does_nothing() {
    let mut snapshot = sample();
    for (run, name) in snapshot.runs.iter_mut().zip([
        "\u{1b}[2J\u{202e}evil",
        "日本語の名前の長い長い長い長い長い長い",
        "a\u{301}\u{200d}\u{fe0f}👩‍👩‍👧",
    ]) {
        run.record.agent = Some(name.into());
        run.record.task = Some(format!("{name}\n\t\u{9b}31m"));
        run.record.run = name.into();
    }
    let state = shows(snapshot);
    for width in [20, 21, 22, 23, 80, 81, 200] {
        harmless(&drawn(&state, WIDE, width, 24));
    }
    assert!(text(&state, WIDE, 120, 24).contains("\\u{1b}[2J\\u{202e}evil"));
}

fn harmless(buffer: &Buffer) {
    for cell in buffer.content() {
        let bad = |c: char| {
            c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        };
        assert!(!cell.symbol().chars().any(bad), "{:?}", cell.symbol());
    }
}

fn any_node() -> impl Strategy<Value = Node> {
    let amount = prop_oneof![Just(0_u64), Just(u64::MAX), 0..2_000_000_u64, any::<u64>()];
    let figures = (proptest::collection::vec(amount, 8), proptest::option::of(any::<u64>()), any::<bool>());
    let meters = proptest::collection::vec(figures, 0..3).prop_map(|all| {
        let line = |(of, until_ms, replaced): (Vec<u64>, Option<u64>, bool)| {
            let both = |n: usize| Both { raw: Amount::milli(of[n]), weighted: Amount::milli(of[n + 1]) };
            let standing = Standing {
                cap: Amount::milli(of[2]),
                spent: Amount::milli(of[3]),
                held: Amount::milli(of[4]),
                count: if replaced { Count::Raw } else { Count::Weighted },
            };
            let cap = CapLine { kind: CapKind::Budget, standing, since_ms: of[5], until_ms, replaced };
            MeterLine {
                meter: MeterName::parse("openai").unwrap(),
                spent: both(0),
                held: both(1),
                caps: vec![cap],
                rate: [of[5], of[6], of[7]],
                usage: Usage { input: of[0], cache_write: of[1], cache_read: of[2], output: of[3] },
                estimated: both(3),
                requests: of[4],
            }
        };
        all.into_iter().map(line).collect::<Vec<_>>()
    });
    let flights = proptest::collection::vec((any::<String>(), any::<u64>()), 0..3).prop_map(|all| {
        let flight = |(model, age_ms): (String, u64)| InFlight {
            id: ReservationId(u128::from(age_ms)),
            meter: MeterName::parse("openai").unwrap(),
            model: Some(model),
            age_ms,
            hold: Both { raw: Amount::milli(age_ms), weighted: Amount::milli(age_ms) },
            sent: age_ms.is_multiple_of(2),
        };
        all.into_iter().map(flight).collect::<Vec<_>>()
    });
    let leaf = (any::<String>(), meters, flights).prop_map(|(name, meters, in_flight)| Node {
        scope: Scope::Run(name),
        live: true,
        meters,
        in_flight,
        children: vec![],
    });
    leaf.prop_recursive(4, 24, 4, |inner| {
        (any::<String>(), proptest::collection::vec(inner, 0..4)).prop_map(|(name, children)| Node {
            scope: Scope::Bottle(name),
            live: true,
            meters: children.first().map(|child: &Node| child.meters.clone()).unwrap_or_default(),
            in_flight: vec![],
            children,
        })
    })
}

fn any_key() -> impl Strategy<Value = Key> {
    prop_oneof![
        any::<char>().prop_map(Key::Char),
        prop::sample::select("cpfKrtb/sSa?gGjkqhyn".chars().collect::<Vec<_>>()).prop_map(Key::Char),
        prop::sample::select(vec![
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::PageDown,
            Key::Home,
            Key::End,
            Key::Enter,
            Key::Tab,
            Key::Esc,
            Key::Backspace,
            Key::Resized,
        ]),
        (any::<u16>(), any::<u16>()).prop_map(|(column, row)| Key::Click(column, row)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn c17_no_snapshot_no_size_and_no_key_makes_it_panic_or_show_a_control_character(
        host in any_node(),
        names in proptest::collection::vec((any::<String>(), any::<String>(), any::<String>()), 0..4),
        keys in proptest::collection::vec(any_key(), 0..16),
        width in 0..210_u16,
        height in 0..60_u16,
        at_ms in any::<u64>(),
        ascii in any::<bool>(),
    ) {
        let runs = names.iter().map(|(name, bottle, state)| Answer {
            why: Some(name.clone()),
            ..run(name, bottle, if state.len() % 2 == 0 { "cut off" } else { state })
        });
        let ledger = LedgerSnapshot { at_ms, host: Node { scope: Scope::Host, ..host }, failing: names.first().map(|(why, ..)| why.clone()), waiting: at_ms, left_out: 0 };
        let controller = Controller::Away { why: names.first().map(|(_, why, _)| why.clone()).unwrap_or_default() };
        let mut snapshot = Snapshot { at_ms, controller, ledger: Some(ledger), runs: runs.collect(), ..sample() };
        snapshot.blind = names.last().map(|(why, ..)| why.clone());
        let mut state = shows(snapshot.clone());
        state.view.ended = true;
        let area = Rect::new(0, 0, width, height);
        for key in keys {
            let _ = state.key(key, area);
            let mut buffer = Buffer::empty(area);
            draw(&mut buffer, &state, Look { colour: true, ascii, local: utc });
            harmless(&buffer);
            if ascii {
                prop_assert!(buffer.content().iter().all(|cell| cell.symbol().is_ascii()));
            }
        }
        state.show(Arc::new(snapshot.clone()));
        let mut buffer = Buffer::empty(area);
        draw(&mut buffer, &state, WIDE);
        harmless(&buffer);
        prop_assert!(!plain::line(&snapshot, WIDE).trim_end().contains(char::is_control));
    }
}

#[test]
fn the_smallest_screens_show_something_and_do_not_panic() {
    let mut state = shows(sample());
    for keys in ["", "?", "\u{1b}", "c", "n", "t", "x", "/"] {
        press(&mut state, keys);
        for width in 0..24 {
            for height in 0..8 {
                let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
                draw(&mut buffer, &state, WIDE);
            }
        }
    }
    insta::assert_snapshot!(text(&shows(sample()), WIDE, 20, 5));
}
