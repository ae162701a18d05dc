//! Real bottles, as whoever runs this and, when that is root, once more as the ordinary user `carboytest`.
//!
//! The program starts itself again as a bottle's init, hence the main of its own.

// Without libtest clippy does not see that these are tests.
#![allow(clippy::unwrap_used)]

mod confinement;
mod ending;
mod exec;
mod files;
mod harness;
mod image;
mod inside_ports;
mod network;
mod overlay;
mod pausing;
mod start;
mod streams;

use libtest_mimic::{Arguments, Trial};

fn main() {
    carboy_bottle::run_init_if_asked();
    if harness::played_a_part() {
        return;
    }
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = Vec::new();
    trials.extend(start::trials());
    trials.extend(network::trials());
    trials.extend(files::trials());
    trials.extend(overlay::trials());
    trials.extend(image::trials());
    trials.extend(confinement::trials());
    trials.extend(streams::trials());
    trials.extend(ending::trials());
    trials.extend(exec::trials());
    trials.extend(inside_ports::trials());
    trials.extend(pausing::trials());
    trials.extend(harness::as_ordinary_user());
    let conclusion = libtest_mimic::run(&arguments, trials);
    harness::tell_left_out();
    conclusion.exit();
}
