-- Whose a worker is: nobody else changes its description. Workers of earlier versions belong to whoever names them next.
ALTER TABLE composerd.workers ADD COLUMN client text COLLATE "C" NOT NULL DEFAULT '';
