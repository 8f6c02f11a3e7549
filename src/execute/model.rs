//! A model: the generation records it, and its server is somebody else's.
