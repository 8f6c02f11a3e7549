//! Images: what is built, when nothing is, and what is said when it cannot be.
