/** Issues as an operator reads them, for comparison as text. */
import type { Issue } from '../agent/core/document.ts';

export function issuesOf(reading: { readonly issues: readonly Issue[] } | object): string[] {
  return 'issues' in reading ? (reading.issues as readonly Issue[]).map(formatted) : [];
}

export function formatted({ file, line, column, message }: Issue): string {
  return `${file}:${line}:${column}: ${message}`;
}
