//! The contract over plain processes. It has no rows for images, and where a row is about walls
//! it says that there are none yet.

use super::place::Place;
use super::rows;

/// There is no service that could be down or hang.
#[tokio::test]
async fn row_01() {
    let info = Place::none().runtime.probe().await.unwrap();
    assert_eq!(info.architecture, std::env::consts::ARCH);
}

macro_rules! rows {
    ($($row:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $row() {
                rows::$row(Place::none()).await;
            }
        )*
    };
}

rows! {
    row_02 row_03 row_04 row_05 row_06 row_07 row_08 row_09 row_10 row_11 row_12 row_13 row_15
    row_17 row_22
}
