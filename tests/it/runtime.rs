//! What holds for every runtime, and where they are meant to differ.
//!
//! The rows are those of one table, numbered there: each is written once, in
//! `rows`, and run over `docker` and `none`. What differs is said at the row.

mod answers;
mod docker;
mod images;
mod none;
mod others;
mod place;
mod rows;
