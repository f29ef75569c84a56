//! Clients that keep to no rule lose their connection, and cost others nothing.

use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Control, PATIENCE};
use crate::load::Client;

async fn soon<T>(what: &str, coming: impl Future<Output = T>) -> anyhow::Result<T> {
    // A head may take 30 s.
    tokio::time::timeout(PATIENCE + Duration::from_secs(30), coming).await.with_context(|| what.to_owned())
}

#[test]
fn a_head_without_end_and_one_that_does_not_come_end_their_connections() {
    let control = Control::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let test = async {
        let client = Client::of(&control)?;
        let mut endless = client.open().await?;
        endless.write_all(b"GET /livez HTTP/1.1\r\n").await?;
        let line = format!("x-header: {}\r\n", "x".repeat(8000));
        soon("an end of the headers", async { while endless.write_all(line.as_bytes()).await.is_ok() {} }).await?;

        let mut silent = client.open().await?;
        silent.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n").await?;
        // How it ends is the system's business.
        let _ = soon("an end of the silence", silent.read_to_end(&mut Vec::new())).await?;

        let answer = client.ask(&mut client.connect().await?, "GET", "/livez", None).await?;
        assert_eq!(answer.status(), 200);
        anyhow::Ok(())
    };
    runtime.expect("a runtime").block_on(test).expect("control keeps to its bounds");
}
