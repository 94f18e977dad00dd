-- The reason for which a worker asks for no jobs, and that it has signed off. `sent_at` is when it sent what the row says, or signed
-- off: what it had sent before, and another server reports later, changes nothing of it.
ALTER TABLE composerd.workers
    ADD COLUMN problem text,
    ADD COLUMN sent_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN signed_off boolean NOT NULL DEFAULT false;
