/**
 * gate.h and layout.ts must say the same: the C compiler is asked for every
 * size and offset of the header, and for its numbers.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ADMISSIONS_MAX } from '../../agent/core/admissions.ts';
import { ENTRY_BYTES } from '../../agent/core/pool.ts';
import { DENIAL_REASONS, DENIALS } from '../../agent/core/reasons.ts';
import * as layout from '../../agent/dataplane/layout.ts';
import { ROOT } from '../child.ts';

const HEADER = `${ROOT}agent/dataplane/gate.h`;

/** What these C expressions are worth, with gate.h included. */
function valuesOf(expressions: readonly string[]): Record<string, number> {
  const folder = mkdtempSync(join(tmpdir(), 'mtgate-layout-'));
  try {
    const lines = expressions.map((one) => `printf("%lld\\n", (long long)(${one}));`);
    const source = `#include <stddef.h>\n#include <stdio.h>\n#include "${HEADER}"\nint main(void) {\n${lines.join('\n')}\n}`;
    execFileSync('cc', ['-Wall', '-Werror', '-x', 'c', '-o', join(folder, 'values'), '-'], { input: source });
    const printed = execFileSync(join(folder, 'values'), { encoding: 'utf8' }).trimEnd().split('\n');
    return Object.fromEntries(expressions.map((one, i) => [one, Number(printed[i])]));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The structs of the header, each with its fields, by a reader that knows just the style it is written in. */
function structsOf(header: string): Record<string, string[]> {
  const plain = header.replace(/\/\*[\s\S]*?\*\//g, '');
  return Object.fromEntries(
    [...plain.matchAll(/struct (\w+) \{([^}]*)\};/g)].map(([, name, body]) => [
      name,
      [...(body ?? '').matchAll(/(\w+)(?:\[\w+\])?;/g)].map(([, field]) => field ?? ''),
    ]),
  );
}

describe('gate.h and layout.ts', () => {
  test('have the same structs with the same fields', () => {
    const ours = Object.entries(layout.LAYOUT).map(([name, { fields }]) => [name, Object.keys(fields)]);
    expect(Object.fromEntries(ours)).toEqual(structsOf(readFileSync(HEADER, 'utf8')));
  });

  test('agree on every size and offset', () => {
    const ours = Object.entries(layout.LAYOUT).flatMap(([name, { size, fields }]) => [
      [`sizeof(struct ${name})`, size] as const,
      ...Object.entries(fields).map(([field, offset]) => [`offsetof(struct ${name}, ${field})`, offset] as const),
    ]);
    expect(Object.fromEntries(ours)).toEqual(valuesOf(ours.map(([expression]) => expression)));
  });

  test('agree on every number', () => {
    const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
    const ours = {
      GATE_SCHEMA: layout.GATE_SCHEMA,
      GATE_POOLS_MAX: layout.GATE_POOLS_MAX,
      GATE_SERVICES_MAX: layout.GATE_SERVICES_MAX,
      GATE_MARK: layout.GATE_MARK,
      GATE_ANSWER_MARK: layout.GATE_ANSWER_MARK,
      GATE_OWN_MARK: layout.GATE_OWN_MARK,
      GATE_FRAGMENT_MARK: layout.GATE_FRAGMENT_MARK,
      GATE_LET_IN_MARK: layout.GATE_LET_IN_MARK,
      ENTRY_UNTRANSLATED: layout.ENTRY_UNTRANSLATED,
      OWNER_BITS: layout.OWNER_BITS,
      GATE_ADMISSIONS_MAX: ADMISSIONS_MAX,
      COUNTER_MAX: layout.COUNTER_MAX,
      ENTRY_ANY_REMOTE: layout.ENTRY_ANY_REMOTE,
      LIMIT_BYTES_SHIFT: layout.LIMIT_BYTES_SHIFT,
      GATE_USED_UP_MAX: layout.GATE_USED_UP_MAX,
      GATE_LENGTHS_MAX: layout.GATE_LENGTHS_MAX,
      BUCKET_SLOTS: layout.BUCKET_SLOTS,
      NEXT_HOP4: layout.NEXT_HOP4,
      NEXT_HOP6: layout.NEXT_HOP6,
      ROUTE_TAKES_FRAMES: layout.ROUTE_TAKES_FRAMES,
      REASON_MAX: DENIAL_REASONS.length + 1,
      ...Object.fromEntries(DENIAL_REASONS.map((reason) => [`REASON_${snake(reason)}`, DENIALS[reason].number])),
      ...Object.fromEntries(
        Object.entries(layout.NORMALISE).map(([name, number]) => [`NORMALISE_${snake(name)}`, number]),
      ),
      ...Object.fromEntries(Object.entries(layout.OWNERS).map(([name, number]) => [`OWNER_${snake(name)}`, number])),
      ...Object.fromEntries(Object.entries(layout.COUNTERS).map(([name, slot]) => [`COUNTER_${snake(name)}`, slot])),
      'sizeof(struct gate_entry)': ENTRY_BYTES,
    };
    expect(ours).toEqual(valuesOf(Object.keys(ours)));
  });
});
