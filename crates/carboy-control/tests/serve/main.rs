//! The chat service over real sockets: a real engine, a real log, a model that is scripted. The rows are in the names.

mod browser;
mod errors;
mod http;
mod limits;
mod needs;
mod page;
mod people;
mod proxy;
mod streams;
mod surface;
mod world;
