/** Whether a test of this title stands in a file, plainly or as one of `each`. */
export function hasTest(text: string, title: string): boolean {
  const escaped = title.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  // Of `each` with a table of many lines, what is seen is its last line.
  const call = String.raw`(?:\b(?:test|it)(?:\.each\([^]*?\))?|^ *\](?: as const)?\))`;
  return new RegExp(`${call}\\(\\s*(['"\`])${escaped}\\1`, 'm').test(text);
}
