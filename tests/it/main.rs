mod route;
mod store;

fn main() {}
