"""More modules of `ts`; each is loaded under its name in `ts` and only re-exports."""
