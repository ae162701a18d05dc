//! Sets the cap of a bottle while things run, over a connection that stands: what an operator does, without the start of
//! a command. A line `NAME METER TOKENS` is answered with two times in microseconds since 1970: when the request was sent
//! and when it was answered.

use std::io::BufRead;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use carboy_core::budget::{Amount, CapEdit, CapKey, CapKind, Scope};
use carboy_core::ids::MeterName;
use carboy_store::controller::Line;
use carboy_store::controller::protocol::{Answer, Call, Role};

use crate::Failure;

fn now_us() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros())
}

pub fn run(socket: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for said in std::io::stdin().lock().lines() {
        let said = said?;
        let [name, meter, tokens] = said.split(' ').collect::<Vec<_>>()[..] else {
            return Err("not three words".into());
        };
        let scope = Scope::Bottle(name.to_owned());
        let key = CapKey { scope, meter: MeterName::parse(meter)?, kind: CapKind::Budget };
        let amount = Amount::tokens(tokens.parse()?).ok_or("too many tokens")?;
        let edit = CapEdit { amount, count: None, window: None };
        runtime.block_on(async {
            let mut line = Line::open(socket, env!("CARGO_PKG_VERSION"), Role::Operator).await?;
            let sent = now_us();
            let answer = line.ask(Call::SetCap(key, edit)).await?;
            let answered = now_us();
            if answer != Answer::Done {
                return Err(format!("{answer:?}").into());
            }
            println!("{sent} {answered}");
            Ok::<_, Failure>(())
        })?;
    }
    Ok(())
}
