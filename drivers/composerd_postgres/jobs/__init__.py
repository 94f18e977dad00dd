"""Operations on stored jobs: submitting, loading, attempts, decisions, timers and reads."""
