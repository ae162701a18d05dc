//! What the controller wants of a bottle, kept until its supervisor takes it.
//!
//! *Must never* lose what acts on the bottle to make room for what is only said.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::protocol::Push;

/// Most pushes that wait; the oldest words go first.
pub const EVENTS_MAX: usize = 64;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Push>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Notify,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Whole at every step.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side that the client fills.
pub(super) struct EventsIn(Arc<Shared>);

/// What the controller pushes to one supervisor, in its order.
pub struct ClientEvents(Arc<Shared>);

/// Both sides.
pub(super) fn events() -> (EventsIn, ClientEvents) {
    let shared = Arc::new(Shared::default());
    (EventsIn(shared.clone()), ClientEvents(shared))
}

impl EventsIn {
    pub(super) fn put(&self, push: Push) {
        let mut queue = self.0.queue();
        match &push {
            // Only the last one counts: what was to happen before it has been overtaken.
            Push::Act { .. } | Push::Restore { .. } => queue.waiting.retain(|known| matches!(known, Push::Warn { .. })),
            Push::Warn { .. } => {}
        }
        if queue.waiting.len() >= EVENTS_MAX
            && let Some(oldest) = queue.waiting.iter().position(|known| matches!(known, Push::Warn { .. }))
        {
            queue.waiting.remove(oldest);
        }
        queue.waiting.push_back(push);
        drop(queue);
        self.0.more.notify_one();
    }
}

impl Drop for EventsIn {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.more.notify_one();
    }
}

impl ClientEvents {
    /// The next push; `None` when the client is gone. Nothing is lost when this is dropped before it is ready.
    pub async fn next(&mut self) -> Option<Push> {
        loop {
            {
                let mut queue = self.0.queue();
                if let Some(push) = queue.waiting.pop_front() {
                    return Some(push);
                }
                if queue.closed {
                    return None;
                }
            }
            self.0.more.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use carboy_core::budget::Shutdown;

    use super::*;

    #[tokio::test]
    async fn an_action_overtakes_the_one_before_it_and_is_never_dropped_for_words() {
        let (filled, mut taken) = events();
        let warn = |n: usize| Push::Warn { text: n.to_string() };
        filled.put(Push::Restore { why: "early".into() });
        filled.put(Push::Act { how: Shutdown::Pause, why: "spent".into() });
        for n in 0..EVENTS_MAX + 10 {
            filled.put(warn(n));
        }
        drop(filled);
        assert_eq!(taken.next().await, Some(Push::Act { how: Shutdown::Pause, why: "spent".into() }));
        let mut rest = Vec::new();
        while let Some(push) = taken.next().await {
            rest.push(push);
        }
        assert_eq!(rest, (11..EVENTS_MAX + 10).map(warn).collect::<Vec<_>>());
    }
}
