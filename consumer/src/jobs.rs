//! The kinds of jobs that are built in. A kind is a file here, and one line in [`Registry::built_in`].
//!
//! [`Registry::built_in`]: crate::registry::Registry::built_in

mod chaos;
mod log;

pub use chaos::Chaos;
pub use log::Log;
