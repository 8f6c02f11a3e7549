//! A group: it is what the last applied generation says, and nothing else shows it.
