//! The clients as supervisors are: each with its connection to a controller, which is another process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use carboy_core::ids::MeterName;
use carboy_core::ports::Later;
use carboy_store::controller::protocol::Supervised;
use carboy_store::controller::{Client, ClientEvents, Reach};
use tokio::runtime::{Handle, Runtime};

use crate::{CLIENTS, Failure, Turn, Work, budgets, clients, one_pair};

/// A controller that runs.
pub struct Controller {
    socket: PathBuf,
    runtime: Runtime,
}

impl Controller {
    pub fn new(socket: &Path) -> Result<Controller, Failure> {
        // As a supervisor has: its own threads carry the connection.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        Ok(Controller { socket: socket.to_owned(), runtime })
    }

    /// All clients for one turn. They are others in each: what was charged stays charged.
    pub fn turn(&self, turn: u64) -> Result<Turn, Failure> {
        let meter = MeterName::parse("anthropic")?;
        clients(|id| {
            let id = turn * CLIENTS + id;
            let supervised = Supervised {
                run: format!("r{id}"),
                bottle: "b".into(),
                agent: None,
                plan: String::new(),
                budgets: budgets(id, &meter)?,
                meters: vec![meter.clone()],
            };
            let inside = self.runtime.enter();
            let (client, events) = Client::open(Arc::new(There(self.socket.clone())), supervised);
            drop(inside);
            let first = u128::from(turn) << 32;
            Ok(Over { client, _events: events, meter: meter.clone(), runtime: self.runtime.handle().clone(), first })
        })
    }
}

struct There(PathBuf);

impl Reach for There {
    fn socket(&self) -> &Path {
        &self.0
    }

    fn start(&self) -> Later<'_, Result<(), String>> {
        Box::pin(async { Err("it is to run already".to_owned()) })
    }

    fn program(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }
}

struct Over {
    client: Arc<Client>,
    _events: ClientEvents,
    meter: MeterName,
    runtime: Handle,
    /// Names of an earlier turn are not used again.
    first: u128,
}

impl Work for Over {
    fn pair(&mut self, id: u128) -> Result<(), Failure> {
        self.runtime.block_on(one_pair(self.client.as_ref(), &self.meter, id + self.first))
    }
}
