-- The queue that is there from the beginning.

-- Its id is one that nobody else gives: what is restored meets a queue only when its own has come.
INSERT INTO mail.queue (id, name, transport, default_sender, fresh)
VALUES (1073741824 + (hashtext(gen_random_uuid()::text) & 1073741823), 'default', 'capture', 'postgres@localhost', true);
