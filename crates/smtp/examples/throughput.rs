//! How many messages a second one thread gets rid of.
//!
//! `throughput [--to HOST:PORT] [--connections N] [--messages N] [--size OCTETS] [--late MS]` sends so many
//! messages in all. Without an address it talks to a sink of its own on another thread, which accepts
//! everything, each reply so many milliseconds after what it answers has come, as over a long line.
//!
//! `throughput --listen yes [--late MS]` is that sink alone, for other programs: it says its address, and ends
//! when its standard input does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mail_smtp::{Endpoint, Message, Outcome, Session, TlsMode, Verdict};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Builder,
    sync::mpsc,
    time::sleep_until,
};

type Failure = Box<dyn std::error::Error>;

struct Options {
    to: Option<String>,
    connections: usize,
    messages: usize,
    size: usize,
    late: Duration,
    listen: bool,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        to: None,
        connections: 4,
        messages: 200_000,
        size: 2048,
        late: Duration::ZERO,
        listen: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--to" => options.to = Some(value),
            "--connections" => options.connections = value.parse::<usize>()?.max(1),
            "--messages" => options.messages = value.parse()?,
            "--size" => options.size = value.parse()?,
            "--listen" => options.listen = value == "yes",
            "--late" => options.late = Duration::from_millis(value.parse()?),
            _ => return Err(format!("there is no option {name}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    if options.listen {
        println!("{}", sink(options.late)?);
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        return Ok(());
    }
    let address = match &options.to {
        Some(address) => address.clone(),
        None => sink(options.late)?,
    };
    let (host, port) = address.rsplit_once(':').ok_or("an address is HOST:PORT")?;
    let endpoint = Endpoint {
        host: host.to_owned(),
        port: port.parse()?,
        tls: TlsMode::Never,
        helo_name: "localhost".to_owned(),
        ..Endpoint::default()
    };
    let message = Arc::new(message(options.size));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let start = Instant::now();
    let delivered = runtime.block_on(async {
        let (each, more) = (
            options.messages / options.connections,
            options.messages % options.connections,
        );
        let clients: Vec<_> = (0..options.connections)
            .map(|i| {
                let count = each + usize::from(i < more);
                tokio::spawn(client(endpoint.clone(), Arc::clone(&message), count))
            })
            .collect();
        let mut delivered = 0;
        for client in clients {
            delivered += client.await??;
        }
        Ok::<_, Failure>(delivered)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = f64::from(delivered) / seconds;
    println!(
        "{delivered} messages over {} connections in {seconds:.2} s: {rate:.0}/s",
        options.connections
    );
    Ok(())
}

/// A message of about so many octets.
fn message(size: usize) -> Message {
    let line = "a line of a message, more or less as long as such lines use to be\r\n";
    let text = line.repeat(size / line.len());
    Message {
        from: "sender@example.com".to_owned(),
        to: vec!["recipient@example.com".to_owned()],
        data: format!("Subject: for measuring\r\n\r\n{text}")
            .into_bytes()
            .into(),
        ..Message::default()
    }
}

/// Sends `count` messages over one connection, and says how many were delivered.
async fn client(
    endpoint: Endpoint,
    message: Arc<Message>,
    count: usize,
) -> Result<u32, mail_smtp::RelayFault> {
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
fn sink(late: Duration) -> std::io::Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?.to_string();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || runtime.block_on(receive(listener, late)));
    Ok(address)
}

async fn receive(listener: std::net::TcpListener, late: Duration) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        accept_everything(listener.accept().await?.0, late)?;
    }
}

/// What is to be said, and when.
type Due = (tokio::time::Instant, Vec<u8>);

/// Reads and answers in two tasks, so that no reply waits for another one's delay.
fn accept_everything(stream: TcpStream, late: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(listen(read, sender, late));
    tokio::spawn(answer(write, receiver));
    Ok(())
}

/// One answer for all that one read brought.
async fn listen(mut stream: OwnedReadHalf, sender: mpsc::UnboundedSender<Due>, late: Duration) {
    let due = |words| (tokio::time::Instant::now() + late, words);
    let (mut input, mut text) = (Vec::with_capacity(65_536), false);
    let mut heard = sender.send(due(b"220 sink\r\n".to_vec()));
    while heard.is_ok() && stream.read_buf(&mut input).await.is_ok_and(|n| n > 0) {
        let (mut start, mut output) = (0, vec![]);
        while let Some(at) = input[start..].iter().position(|&b| b == b'\n') {
            let line = &input[start..=start + at];
            start += at + 1;
            let reply: &[u8] = match (text, line.get(..4)) {
                (true, _) if line == b".\r\n" => b"250 2.0.0 queued as 12345\r\n",
                (true, _) => continue,
                (_, Some(b"EHLO")) => b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
                (_, Some(b"DATA")) => b"354 go\r\n",
                (_, Some(b"QUIT")) => b"221 bye\r\n",
                _ => b"250 2.1.0 ok\r\n",
            };
            text = reply.starts_with(b"354");
            output.extend_from_slice(reply);
        }
        input.drain(..start);
        heard = sender.send(due(output));
    }
}

/// Says each thing when it is due.
async fn answer(mut stream: OwnedWriteHalf, mut receiver: mpsc::UnboundedReceiver<Due>) {
    while let Some((when, words)) = receiver.recv().await {
        if when > tokio::time::Instant::now() {
            sleep_until(when).await;
        }
        if stream.write_all(&words).await.is_err() {
            return;
        }
    }
}
