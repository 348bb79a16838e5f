/** What the doctor says of one thing it looked at: how it is, what was found, and what to do where something is. */
export interface Finding {
  /** `unknown`: it cannot be told from here (not allowed to look, no tool for it). */
  readonly level: 'ok' | 'warn' | 'bad' | 'unknown';
  readonly found: string;
  readonly advice?: string;
}

/** A row of the doctor's table. */
export interface Row extends Finding {
  readonly name: string;
}

export const ok = (found: string): Finding => ({ level: 'ok', found });
export const warn = (found: string, advice: string): Finding => ({ level: 'warn', found, advice });
export const bad = (found: string, advice: string): Finding => ({ level: 'bad', found, advice });
export const unknown = (found: string, advice?: string): Finding => ({
  level: 'unknown',
  found,
  ...(advice !== undefined && { advice }),
});
