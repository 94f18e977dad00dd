-- Returns true if a job was stored with args, for a claim that finds none. The claim is planned each time that it is executed;
-- a question of its own about the table would be planned each time too, and this is planned once in a session. It is volatile,
-- because the claim may take a job that was stored after its statement began.
CREATE FUNCTION composerd.has_args(job uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    RETURN (SELECT j.args_size > 0 FROM composerd.jobs j WHERE j.id = job);
END
$$;
