//! What holds for the whole house: it is what the last applied generation says.
