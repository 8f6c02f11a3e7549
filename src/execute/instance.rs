//! What holds for the whole house: the generation records it, and the controller takes it from there.
