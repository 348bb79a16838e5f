/**
 * The stack that the gate's programs take, from the object as it was built. No
 * chain of calls may take more than 512 bytes, and Linux 6.1 counts each
 * function's share in steps of 32, where newer kernels have steps of 16: what
 * loads here may not load there.
 */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { ROOT } from '../child.ts';

const MOST = 512;
const STEP = 32;

const [SYMBOLS, RELOCATIONS] = [2, 9]; // sh_type
const [FUNCTION, SECTION] = [2, 3]; // of a symbol
const FRAME = 10; // the register that points to the end of the stack
const OPCODES = { move: 0xbf, add: 0x07, call: 0x85, loadAddress: 0x18 } as const;
const CLASSES = { load: 1, store: 2, storeRegister: 3, alu32: 4, alu64: 7 } as const;
const TO_FUNCTION = 1; // source register of a call

interface Fn {
  readonly name: string;
  readonly section: number;
  readonly start: number;
  readonly size: number;
}

const elf = readFileSync(`${ROOT}dist/dataplane/gate.bpf.o`);
const u64 = (at: number) => Number(elf.readBigUInt64LE(at));
const sections = Array.from({ length: elf.readUInt16LE(60) }, (_, i) => {
  const at = u64(40) + i * elf.readUInt16LE(58);
  return {
    ...{ type: elf.readUInt32LE(at + 4), offset: u64(at + 24), size: u64(at + 32) },
    ...{ link: elf.readUInt32LE(at + 40), info: elf.readUInt32LE(at + 44) },
  };
});
const table = sections.find(({ type }) => type === SYMBOLS) as (typeof sections)[number];
const names = sections[table.link] as (typeof sections)[number];
const symbols = Array.from({ length: table.size / 24 }, (_, i) => {
  const at = table.offset + i * 24;
  const nameAt = names.offset + elf.readUInt32LE(at);
  return {
    ...{ name: elf.toString('latin1', nameAt, elf.indexOf(0, nameAt)), type: (elf[at + 4] ?? 0) & 15 },
    ...{ section: elf.readUInt16LE(at + 6), start: u64(at + 8), size: u64(at + 16) },
  };
});
const functions: readonly Fn[] = symbols.filter(({ type }) => type === FUNCTION);
/** What an instruction refers to: by section and place. */
const references = new Map(
  sections
    .filter(({ type }) => type === RELOCATIONS)
    .flatMap(({ offset, size, info }) =>
      Array.from({ length: size / 16 }, (_, i) => {
        const at = offset + i * 16;
        return [`${info} ${u64(at)}`, symbols[elf.readUInt32LE(at + 12)]] as const;
      }),
    ),
);

/** How much a function has on the stack itself, and what it calls, callbacks included. */
function look({ section, start, size }: Fn): { readonly own: number; readonly calls: readonly Fn[] } {
  const base = (sections[section] as (typeof sections)[number]).offset;
  const calls: Fn[] = [];
  const copies = new Set<number>(); // registers that point where FRAME does
  let own = 0;
  const found = (inSection: number, at: number) => {
    const one = functions.find((fn) => fn.section === inSection && fn.start === at);
    if (one) calls.push(one);
  };
  for (let at = start; at < start + size; at += 8) {
    const [code = 0, registers = 0] = elf.subarray(base + at);
    const [target, source] = [registers & 15, registers >> 4];
    const offset = elf.readInt16LE(base + at + 2);
    const value = elf.readInt32LE(base + at + 4);
    const kind = code & 7;
    const symbol = references.get(`${section} ${at}`);
    if (kind === CLASSES.load && source === FRAME) own = Math.max(own, -offset);
    if ((kind === CLASSES.store || kind === CLASSES.storeRegister) && target === FRAME) own = Math.max(own, -offset);
    if (code === OPCODES.add && copies.has(target)) own = Math.max(own, -value);
    if (kind === CLASSES.load || kind === CLASSES.alu32 || kind === CLASSES.alu64) copies.delete(target);
    if (code === OPCODES.move && source === FRAME) copies.add(target);
    if (code === OPCODES.call && source === TO_FUNCTION) {
      const there = at + 8 + value * 8;
      if (!symbol) found(section, there);
      else found(symbol.section, symbol.type === SECTION ? (value + 1) * 8 : symbol.start);
    }
    if (code === OPCODES.loadAddress) {
      if (symbol) found(symbol.section, symbol.type === SECTION ? value : symbol.start);
      at += 8; // of two words
    }
  }
  return { own, calls };
}

function deepest(fn: Fn): { readonly bytes: number; readonly path: readonly string[] } {
  const { own, calls } = look(fn);
  const below = calls
    .map(deepest)
    .reduce((a, b) => (b.bytes > a.bytes ? b : a), { bytes: 0, path: [] as readonly string[] });
  const bytes = Math.ceil(Math.max(own, 1) / STEP) * STEP + below.bytes;
  return { bytes, path: [`${fn.name} ${own}`, ...below.path] };
}

const programs = functions.filter(({ name }) => /^gate_(in|out)side_/.test(name));

function reached(from: Fn): readonly string[] {
  return [from.name, ...look(from).calls.flatMap(reached)];
}

test('every program is looked at, and what it calls, callbacks included', () => {
  expect(programs.length).toBe(8);
  const names = new Set(programs.flatMap(reached));
  for (const name of ['icmp_from_outside', 'deny', 'sum_chunk', 'amend_option']) expect(names).toContain(name);
});

test.each(programs.map((one) => [one.name, one] as const))(
  '%s: no chain of calls takes more than Linux 6.1 has',
  (_, one) => {
    const { bytes, path } = deepest(one);
    expect(bytes, path.join(' > ')).toBeLessThanOrEqual(MOST);
  },
);
