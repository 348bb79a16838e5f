/**
 * Conditions of rules, in CEL (the Common Expression Language): `when:`.
 *
 * What a condition can cost is known before it is taken. It is walked once:
 * only the operators and functions below are taken, each linear in texts that
 * are bounded themselves; loops go over what is written out, or over the
 * attributes of a device, and the steps of all of them together are counted.
 * Nothing builds texts or lists, so nothing grows. Regular expressions
 * (`matches`) are left out: the engine under this library backtracks.
 *
 * A condition is its text, and a policy with conditions a plain value: it can
 * go from one thread to another. What is executed is made of the text where it
 * is first asked, and kept beside it.
 */
import { type ASTNode, Environment, type ParseResult } from '@marcbachmann/cel-js';
import { unknownWord } from '../core/fields.ts';
import type { MtcUserName, Protocol, ServerName } from '../core/words.ts';
import type { DeviceFacts } from './groups.ts';

export interface Condition {
  readonly text: string;
}

/** What a condition may ask for. */
export interface Facts {
  readonly device: DeviceFacts;
  readonly server: ServerName;
  readonly mtcUser: MtcUserName;
  readonly protocol: Protocol;
  readonly port: number;
  readonly durationSeconds: number;
  /** Absent where what the server asked for contradicts itself. */
  readonly family: string | undefined;
}

/** Facts as conditions read them. */
export type Context = Readonly<Record<string, object>>;

/** What is wrong with a condition, and where in its text. */
export interface ConditionFault {
  readonly at: number;
  readonly message: string;
}

/** In characters. */
export const LONGEST_CONDITION = 1024;
const MOST_NODES = 200;
const DEEPEST = 24;
const LONGEST_LIST = 64;
/** As many as a device has at most (core/fields.ts). */
const ATTRIBUTES = 32;
/** An operator or function is a step each time it is taken: some ten million of them are a second. */
const MOST_STEPS = 2_000;

const VARIABLES: Readonly<Record<string, readonly string[]>> = {
  device: ['externalId', 'attributes'],
  server: ['name'],
  mtcUser: ['name'],
  request: ['protocol', 'port', 'durationSeconds', 'family'],
};
const FUNCTIONS = ['has', 'size', 'int', 'double', 'string'];
const METHODS = ['startsWith', 'endsWith', 'contains', 'lowerAscii', 'upperAscii', 'size'];
const LOOPS = ['all', 'exists', 'exists_one'];
const OPERATORS = [
  '==',
  '!=',
  '<',
  '<=',
  '>',
  '>=',
  'in',
  '&&',
  '||',
  '!_',
  '-_',
  '?:',
  '.',
  '[]',
  'list',
  'id',
  'value',
  'map',
  'call',
  'rcall',
];

const language = new Environment({
  limits: {
    maxAstNodes: MOST_NODES,
    maxDepth: DEEPEST,
    maxListElements: LONGEST_LIST,
    maxMapEntries: 0,
    maxCallArguments: 2,
  },
})
  .registerVariable('device', { schema: { externalId: 'string', attributes: 'map<string, string>' } })
  .registerVariable('server', { schema: { name: 'string' } })
  .registerVariable('mtcUser', { schema: { name: 'string' } })
  .registerVariable('request', {
    schema: { protocol: 'string', port: 'int', durationSeconds: 'int', family: 'string' },
  });

/** What is wrong with a condition; undefined where it can be taken. */
export function faultOf(text: string): ConditionFault | undefined {
  try {
    const program = language.parse(text);
    const { ast } = program;
    const steps = stepsOf(ast);
    const { type, error } = program.check();
    if (error) return told(error, text);
    if (type !== 'bool')
      return { at: ast.start, message: `expected a condition that is true or false, found one that is ${type}` };
    if (steps > MOST_STEPS) {
      return {
        at: ast.start,
        message: `the condition may take ${steps} steps, of at most ${MOST_STEPS}; loop over less`,
      };
    }
    return undefined;
  } catch (fault) {
    if (fault instanceof NotTaken) return { at: fault.at, message: fault.message };
    return told(fault as CelError, text);
  }
}

/** Whether a condition holds; or, where that cannot be said, why. */
export function holds(condition: Condition, context: Context): boolean | { readonly failed: string } {
  try {
    const answer: unknown = programOf(condition)(context);
    return typeof answer === 'boolean' ? answer : { failed: 'its condition is neither true nor false' };
  } catch (fault) {
    const { summary, range } = fault as CelError;
    const where = range ? ` at "${condition.text.slice(range.start, range.end)}"` : '';
    return { failed: `its condition cannot be judged: ${summary ?? (fault as Error).message}${where}` };
  }
}

export function contextOf({ device, server, mtcUser, protocol, port, durationSeconds, family }: Facts): Context {
  return {
    device: { externalId: device.externalId, attributes: new Map(Object.entries(device.attributes)) },
    server: { name: server },
    mtcUser: { name: mtcUser },
    request: {
      protocol,
      port: BigInt(port),
      durationSeconds: BigInt(durationSeconds),
      ...(family !== undefined && { family }),
    },
  };
}

const programs = new WeakMap<Condition, ParseResult>();

function programOf(condition: Condition): ParseResult {
  let program = programs.get(condition);
  if (!program) {
    program = language.parse(condition.text);
    programs.set(condition, program);
  }
  return program;
}

/** The library's own errors, by what we read of them. */
interface CelError {
  readonly code?: string;
  readonly summary?: string;
  readonly message: string;
  readonly range?: { readonly start: number; readonly end: number };
  readonly node?: unknown;
}

class NotTaken extends Error {
  readonly at: number;

  constructor({ start }: ASTNode, message: string) {
    super(message);
    this.at = start;
  }
}

/** How many steps it can take, at most. @throws NotTaken */
function stepsOf(node: ASTNode): number {
  if (!OPERATORS.includes(node.op)) throw new NotTaken(node, notTaken(node.op));
  switch (node.op) {
    case 'id':
      return 1;
    case 'map':
      throw new NotTaken(node, NO_MAPS); // an empty one; others are over their limit
    case 'value':
      if (node.args instanceof Uint8Array) throw new NotTaken(node, 'bytes are not taken; compare texts');
      return 1;
    case 'call':
      return callSteps(node, FUNCTIONS, node.args[0], node.args[1]);
    case 'rcall': {
      const [name, receiver, args] = node.args;
      if (!LOOPS.includes(name)) return callSteps(node, METHODS, name, [receiver, ...args]);
      const [, body] = args;
      return 1 + stepsOf(receiver) + (body ? lengthOf(receiver) * stepsOf(body) : 0);
    }
    default: {
      const args: readonly unknown[] = [node.args].flat();
      return args.filter(isNode).reduce((sum, arg) => sum + stepsOf(arg), 1);
    }
  }
}

function callSteps(node: ASTNode, taken: readonly string[], name: string, args: readonly ASTNode[]): number {
  if (!taken.includes(name)) throw new NotTaken(node, notTaken(name));
  return args.reduce((sum, arg) => sum + stepsOf(arg), 1);
}

/** How often a loop goes round. @throws NotTaken */
function lengthOf(range: ASTNode): number {
  if (range.op === 'list') return range.args.length;
  if (range.op === '.' && range.args[1] === 'attributes' && range.args[0].op === 'id') return ATTRIBUTES;
  throw new NotTaken(range, 'loops go over a list that is written out, or over device.attributes');
}

const INSTEAD: Readonly<Record<string, string>> = {
  matches: 'use startsWith, endsWith, contains, ==, or in: a regular expression may take for ever',
  map: 'use all, exists or exists_one',
  filter: 'use all, exists or exists_one',
  '+': 'compare with the sum, or with the whole text',
  '-': 'compare with the difference',
  '*': 'compare with the product',
  '/': 'compare with the quotient',
  '%': 'list what is meant: request.port in [5683, 5684]',
};

const NO_MAPS = 'maps are not taken in conditions; compare with in and a list';

/** In our words, by the name that the library has for them. */
const EXCEEDED: Readonly<Record<string, string>> = {
  maxAstNodes: `the condition has more than ${MOST_NODES} parts`,
  maxDepth: `the condition is nested deeper than ${DEEPEST} levels`,
  maxListElements: `the list has more than ${LONGEST_LIST} elements`,
  maxMapEntries: NO_MAPS,
  maxCallArguments: 'no function of conditions has so many arguments',
};

function notTaken(name: string): string {
  const known = [...FUNCTIONS, ...METHODS.filter((method) => method !== 'size'), ...LOOPS];
  const instead = Object.hasOwn(INSTEAD, name) ? INSTEAD[name] : undefined;
  return instead ? `${name} is not taken in conditions; ${instead}` : unknownWord('function', name, known);
}

function isNode(value: unknown): value is ASTNode {
  return typeof value === 'object' && value !== null && 'op' in value;
}

/** What the library says, with the text it says it of, and a word of help where we know one. */
function told({ code, summary, message, range, node }: CelError, text: string): ConditionFault {
  const at = Math.min(range?.start ?? 0, text.length);
  const exceeded = EXCEEDED[/^Exceeded (\w+)/.exec(summary ?? '')?.[1] ?? ''];
  if (exceeded) return { at, message: exceeded };
  const { args } = (node ?? {}) as { args?: unknown };
  if (code === 'unknown_variable' && typeof args === 'string') {
    return { at, message: unknownWord('variable', args, Object.keys(VARIABLES)) };
  }
  if (code === 'no_such_key' && Array.isArray(args)) {
    const [of, member] = args as [ASTNode, unknown];
    const known = of.op === 'id' && Object.hasOwn(VARIABLES, of.args) ? VARIABLES[of.args] : undefined;
    if (known) return { at, message: unknownWord(`member of ${String(of.args)}`, String(member), known) };
  }
  const found =
    range && range.end > range.start
      ? `, found "${text.slice(range.start, Math.min(range.end, range.start + 80))}"`
      : '';
  const mixed = /string.*\b(int|double)\b|\b(int|double)\b.*string/.test(summary ?? '');
  const hint = mixed ? '; attributes are texts: compare with "2", or write int(…) around the text' : '';
  return { at, message: `not a condition in CEL: ${summary ?? message}${found}${hint}` };
}
