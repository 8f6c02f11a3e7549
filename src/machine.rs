//! The machine as one project finds it.

mod records;

pub use self::records::records;
