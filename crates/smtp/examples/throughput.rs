//! How many messages a second one thread gets rid of: `throughput [HOST:PORT] [CONNECTIONS] [MESSAGES]`,
//! each connection sending so many messages of 2 KB. Without an address it talks to a sink of its own on
//! another thread, which accepts everything at once.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::Instant,
};

use mail_smtp::{Endpoint, Message, Outcome, Session, Timeouts, TlsMode, Verdict};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let address = match arguments.next().filter(|address| address != "-") {
        Some(address) => address,
        None => sink()?,
    };
    let connections: usize = arguments.next().map_or(Ok(4), |n| n.parse())?;
    let messages: usize = arguments.next().map_or(Ok(50_000), |n| n.parse())?;
    let (host, port) = address.rsplit_once(':').ok_or("an address is HOST:PORT")?;
    let endpoint = Endpoint {
        host: host.to_owned(),
        port: port.parse()?,
        tls: TlsMode::Never,
        ca_file: None,
        credentials: None,
        helo_name: "localhost".to_owned(),
        timeouts: Timeouts::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let start = Instant::now();
    let delivered = runtime.block_on(async {
        let clients: Vec<_> = (0..connections)
            .map(|_| tokio::spawn(client(endpoint.clone(), messages)))
            .collect();
        let mut delivered = 0;
        for client in clients {
            delivered += client.await??;
        }
        Ok::<_, Failure>(delivered)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = f64::from(delivered) / seconds;
    println!("{delivered} messages over {connections} connections in {seconds:.2} s: {rate:.0}/s");
    Ok(())
}

/// Sends `count` messages over one connection, and says how many were delivered.
async fn client(endpoint: Endpoint, count: usize) -> Result<u32, mail_smtp::RelayFault> {
    let line = "Subject: a message of two kilobytes, more or less, for measuring\r\n";
    let message = Arc::new(Message {
        from: "sender@example.com".to_owned(),
        to: vec!["recipient@example.com".to_owned()],
        data: format!("{}\r\n{}", line.repeat(4), line.repeat(27)).into(),
    });
    let mut session = Session::connect(&endpoint).await?;
    let (mut left, mut delivered) = (count, 0);
    let mut job = Some(Arc::clone(&message));
    while let Some(current) = job.take().filter(|_| left > 0) {
        left -= 1;
        let (outcome, next) = session
            .send(&current, || (left > 0).then(|| Arc::clone(&message)))
            .await;
        if let Outcome::Judged(results) = outcome {
            delivered += u32::from(results.iter().all(|r| r.verdict == Verdict::Delivered));
        }
        job = next.or_else(|| Some(Arc::clone(&message)));
    }
    session.quit().await;
    Ok(delivered)
}

/// Listens on another thread, and gives its address.
fn sink() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || accept_everything(stream));
        }
    });
    Ok(address)
}

/// Answers every command, and every message, with one write for all that one read brought.
fn accept_everything(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 sink\r\n")?;
    let (mut input, mut output, mut text) = (Vec::new(), Vec::new(), false);
    let mut space = vec![0; 65_536];
    loop {
        let n = stream.read(&mut space)?;
        if n == 0 {
            return Ok(());
        }
        input.extend_from_slice(&space[..n]);
        let mut start = 0;
        while let Some(at) = input[start..].iter().position(|&b| b == b'\n') {
            let line = &input[start..=start + at];
            start += at + 1;
            let reply: &[u8] = match (text, line.get(..4)) {
                (true, _) if line == b".\r\n" => b"250 2.0.0 queued as 12345\r\n",
                (true, _) => continue,
                (_, Some(b"EHLO")) => b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
                (_, Some(b"DATA")) => b"354 go\r\n",
                _ => b"250 2.1.0 ok\r\n",
            };
            text = reply.starts_with(b"354");
            output.extend_from_slice(reply);
        }
        input.drain(..start);
        stream.write_all(&output)?;
        output.clear();
    }
}
