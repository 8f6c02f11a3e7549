//! What engines say, in the words of each: an engine that is played.
