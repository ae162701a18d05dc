//! The tables of the chat bench and its goals.

use super::super::figures::{goal, head, median, row, short};
use super::load::{Outcome, Pace};
use super::memory::Memory;
use super::{ASKED, CALM_PER_SECOND, Contestant, MANY, Order, ROUNDS, SESSIONS, orders};

/// Takes one number from an outcome.
type Pick = fn(&Outcome) -> f64;

impl Contestant {
    /// The median over the rounds.
    fn at(&self, order: Order, pick: Pick) -> f64 {
        let outcomes = self.outcomes.iter().filter(|(given, _)| *given == order);
        median(&outcomes.map(|(_, outcome)| pick(outcome)).collect::<Vec<_>>())
    }
}

/// Takes the memory of one of its states.
type State = fn(&Contestant) -> Memory;

/// The tables of load and memory, and the lines of their goals.
pub fn of(contestants: &[Contestant], python: &str) -> (String, String) {
    let mut text = rates(contestants);
    text += &latency(contestants);
    text += &cpu(contestants);
    text += &memory(contestants);
    text += &format!(
        "\nMedians of {ROUNDS} rounds, interleaved; memory as seen once. A conversation has eight turns, then the connection begins \
         another one. Load generator, service, model (one thread) and controller share the cores. FastAPI on {python}.\n\n"
    );
    (text, goals(contestants))
}

/// All tables, then all goals.
pub fn whole(text: &str, goals: &str) -> String {
    format!("{text}{}{}{goals}", row(&["goal", "figure", ""]), row(&["---", "---", "---"]))
}

fn names<'a>(first: &'a str, contestants: &'a [Contestant]) -> Vec<&'a str> {
    std::iter::once(first).chain(contestants.iter().map(|contestant| contestant.name)).collect()
}

fn closed() -> impl Iterator<Item = Order> {
    orders().into_iter().filter(|order| order.pace == Pace::AtOnce)
}

fn shown(order: Order) -> String {
    let plural = if order.connections == 1 { "" } else { "s" };
    format!("{}; {} connection{plural}", ASKED[order.question].0, order.connections)
}

fn rates(contestants: &[Contestant]) -> String {
    let mut out = "Answers of `POST /api/chat` per second, each connection asking again at once:\n\n".to_owned();
    out += &head(&names("", contestants));
    for order in closed() {
        let rates = contestants.iter().map(|contestant| short(contestant.at(order, |outcome| outcome.per_second)));
        out += &row(&std::iter::once(shown(order)).chain(rates).collect::<Vec<_>>());
    }
    out
}

fn latency(contestants: &[Contestant]) -> String {
    let mut out = format!(
        "\nLatency in milliseconds, p50 / p99. *Calm* is {CALM_PER_SECOND} answers per second over all connections; *at once* keeps the \
         machine fully busy, so that with many connections it is mostly a queue:\n\n"
    );
    out += &head(&names("", contestants));
    for order in orders() {
        let pace = match order.pace {
            Pace::AtOnce => "at once",
            Pace::PerSecond(_) => "calm",
        };
        let picks: [Pick; 2] = [|outcome| outcome.p50_ms, |outcome| outcome.p99_ms];
        let times = contestants.iter().map(|one| picks.map(|pick| short(one.at(order, pick))).join(" / "));
        out += &row(&std::iter::once(format!("{}, {pace}", shown(order))).chain(times).collect::<Vec<_>>());
    }
    out
}

fn cpu(contestants: &[Contestant]) -> String {
    let mut out =
        "\nCPU time of the service for one answer in milliseconds, carboy's with its controller:\n\n".to_owned();
    out += &head(&names("", contestants));
    for order in closed() {
        let times = contestants.iter().map(|contestant| short(contestant.at(order, |outcome| outcome.cpu_ms)));
        out += &row(&std::iter::once(shown(order)).chain(times).collect::<Vec<_>>());
    }
    out
}

fn memory(contestants: &[Contestant]) -> String {
    let mut out = "\nMemory of all of its processes in MiB, resident / proportional (shared pages counted once), carboy's with its \
                   controller:\n\n"
        .to_owned();
    out += &head(&names("", contestants));
    let states: [(String, State); 3] = [
        ("idle, after the first answers".into(), |one| one.idle),
        (format!("most seen after orders, {MANY} connections among them"), |one| one.loaded),
        (format!("and {} idle sessions", short(f64::from(SESSIONS))), |one| one.full),
    ];
    for (state, of) in states {
        let cells = contestants.iter().map(|contestant| {
            let Memory { rss, pss } = of(contestant);
            format!("{} / {}", short(rss), pss.map_or("–".to_owned(), short))
        });
        out += &row(&std::iter::once(state).chain(cells).collect::<Vec<_>>());
    }
    out
}

/// What it does besides must not make it slower, or larger, than a service that does nothing of it.
fn goals(contestants: &[Contestant]) -> String {
    let [carboy, _, workers] = contestants else { return String::new() };
    let mut out = String::new();
    for order in closed() {
        let ratio = carboy.at(order, |o| o.per_second) / workers.at(order, |o| o.per_second);
        let what = format!("as many answers as {}: {}", workers.name, shown(order));
        out += &goal(&what, &format!("{ratio:.2}×"), ratio >= 1.0);
    }
    for order in closed() {
        let ratio = carboy.at(order, |o| o.cpu_ms) / workers.at(order, |o| o.cpu_ms);
        let what = format!("no more CPU time than {}: {}", workers.name, shown(order));
        out += &goal(&what, &format!("{ratio:.2}×"), ratio <= 1.0);
    }
    let of = |memory: Memory| memory.pss.unwrap_or(memory.rss);
    let (ours, theirs) = (of(carboy.full), of(contestants[1].full));
    let what =
        format!("no more memory than {}, with {} idle sessions", contestants[1].name, short(f64::from(SESSIONS)));
    out += &goal(&what, &format!("{} against {} MiB", short(ours), short(theirs)), ours <= theirs);
    out
}
