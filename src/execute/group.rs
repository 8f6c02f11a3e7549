//! A group: the generation records it, and its agent takes it when it next starts.
