//! The same for a response that comes in the messages of a WebSocket.

use carboy_core::budget::Ending;
use carboy_core::verdict::Denial;
use carboy_wire::closing::Follower;
use carboy_wire::meter::{Meter, Reading, Reported, Shape};
use http::StatusCode;

use super::{End, Metered, Tranche};
use crate::hold::Hold;

impl Metered {
    /// For a response whose request is about to be sent.
    pub(crate) fn of_messages(hold: Hold) -> Metered {
        let format = hold.wire().format;
        let step = hold.granted().held.max(1);
        let tranche = (hold.output_to_extend() > 0).then_some(Tranche { step, asking: None, refused: None });
        Metered {
            meter: Meter::new(format, Shape::Messages),
            hold,
            status: StatusCode::OK,
            taken: 0,
            filter: None,
            follower: Follower::new(format, Shape::Messages),
            tranche,
        }
    }

    /// Reads a message of the provider.
    pub(crate) fn read_message(&mut self, message: &[u8]) {
        self.meter.message(message);
    }

    /// Notes a message that the client was sent.
    pub(crate) fn told(&mut self, message: &[u8]) {
        if let Some(follower) = &mut self.follower {
            follower.message(message);
        }
    }

    /// Tokens that the response and what it went on from have at most: what goes on from it reads them again.
    pub(crate) fn length(&self) -> u64 {
        let Reading { usage, reported, .. } = self.meter.reading();
        match reported {
            // What was only made ready is not billed, and read all the same by what follows.
            Reported::Complete if usage.read() > 0 => usage.read().saturating_add(usage.output),
            Reported::Complete | Reported::Partly | Reported::Never => {
                self.hold.ask().input.saturating_add(self.hold.output_held())
            }
        }
    }

    /// The provider did not take the request: what it does not say it does not bill.
    pub(crate) fn not_taken(mut self) {
        self.status = StatusCode::BAD_REQUEST;
        self.end(End::Whole);
    }

    /// Ends it here; gives the messages that end it for its client.
    pub(crate) fn cut_messages(mut self, denial: &Denial) -> Vec<String> {
        let closing = self.follower.take().map(|mut follower| {
            let (Ending::Reported(usage) | Ending::Estimated(usage) | Ending::Unknown(usage)) =
                self.ending(&self.meter.reading(), End::Broken);
            follower.costs(usage);
            follower.closing_messages(&format!("carboy: {denial}"))
        });
        self.end(End::Broken);
        closing.unwrap_or_default()
    }
}
