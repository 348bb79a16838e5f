/**
 * The `mtgate` command as a client of the agent's management socket: the
 * options that such a command has, and one request with its answer.
 */
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { createInterface } from 'node:readline';
import { pipeline } from 'node:stream/promises';
import { Option } from 'commander';
import type { ErrorBody } from '../api/declined.ts';
import { AgentError } from '../core/errors.ts';

export interface Ask {
  readonly socket: string;
  readonly json?: boolean;
}

/** How long an answer is waited for: a reload of many devices takes seconds, a hung agent for ever. */
const PATIENCE_MS = 60_000;

/** An option of every command that speaks to the agent. */
export const socket = () =>
  new Option('--socket <path>', "the agent's management socket")
    .default('/run/mtgate/mtgate.sock')
    .env('MTGATE_SOCKET');
export const json = () => new Option('--json', 'print JSON');

/** One request to the agent. @throws AgentError notRunning or socketDenied, or Declined with what it answered */
export async function call<Answer>(
  { socket: socketPath }: Pick<Ask, 'socket'>,
  method: string,
  path: string,
  body?: object,
  patienceMs = PATIENCE_MS,
): Promise<Answer> {
  const text = body === undefined ? '' : JSON.stringify(body);
  const headers = text ? { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) } : {};
  const { status, said } = await exchange().catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'EACCES') throw new AgentError('socketDenied', `you may not use ${socketPath}`, { cause });
    throw new AgentError('notRunning', `no agent answers on ${socketPath}`, { cause });
  });
  if (status >= 300) throw new Declined(said as ErrorBody);
  return said as Answer;

  async function exchange(): Promise<{ status: number; said: unknown }> {
    const asked = request({ socketPath, method, path, headers, signal: AbortSignal.timeout(patienceMs) });
    asked.end(text);
    const [answer] = (await once(asked, 'response')) as [IncomingMessage];
    const chunks: Buffer[] = [];
    for await (const chunk of answer) chunks.push(chunk as Buffer);
    const said: unknown = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : undefined;
    return { status: answer.statusCode ?? 500, said };
  }
}

/**
 * The same with a body that is sent as it is read, no faster than the agent
 * takes it: it may be long, and so may the answer take. @throws AgentError notRunning or socketDenied, or Declined
 */
export async function send<Answer>(
  { socket: socketPath }: Pick<Ask, 'socket'>,
  path: string,
  contentType: string,
  body: AsyncIterable<Uint8Array>,
): Promise<Answer> {
  const asked = request({ socketPath, method: 'POST', path, headers: { 'content-type': contentType } });
  const answered = once(asked, 'response') as Promise<[IncomingMessage]>;
  answered.catch(() => {}); // who reads the body may have failed before
  try {
    await pipeline(body, asked);
    const [answer] = await answered;
    return await answerIn<Answer>(answer);
  } catch (fault) {
    throw brokenOff(fault, socketPath);
  }
}

/** The body of an answer as it comes. @throws AgentError notRunning or socketDenied, or Declined */
export async function* receive({ socket: socketPath }: Pick<Ask, 'socket'>, path: string): AsyncGenerator<Uint8Array> {
  try {
    const asked = request({ socketPath, path, agent: false });
    asked.end();
    const [answer] = (await once(asked, 'response')) as [IncomingMessage];
    if (answer.statusCode !== 200) await answerIn(answer);
    else yield* answer;
  } catch (fault) {
    throw brokenOff(fault, socketPath);
  }
}

async function answerIn<Answer>(answer: IncomingMessage): Promise<Answer> {
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk as Buffer);
  const said: unknown = JSON.parse(Buffer.concat(chunks).toString());
  if ((answer.statusCode ?? 500) >= 300) throw new Declined(said as ErrorBody);
  return said as Answer;
}

/** What befell a connection to the agent; anything else is as it was. */
function brokenOff(fault: unknown, socketPath: string): unknown {
  const { code = '', syscall } = fault as NodeJS.ErrnoException;
  if (code === 'EACCES' && syscall === 'connect')
    return new AgentError('socketDenied', `you may not use ${socketPath}`, { cause: fault });
  // What does not speak HTTP (HPE_…) is no agent.
  if (syscall === 'connect' || code.startsWith('HPE_'))
    return new AgentError('notRunning', `no agent answers on ${socketPath}`, { cause: fault });
  if (code === 'ECONNRESET' || code === 'EPIPE' || code === 'ERR_STREAM_PREMATURE_CLOSE')
    return new AgentError('notRunning', `the agent on ${socketPath} broke off`, { cause: fault });
  return fault;
}

/** The agent's own words of why it did not. */
export class Declined extends Error {
  readonly code: string;

  constructor({ error }: ErrorBody) {
    super([`${error.code}: ${error.message}`, error.cause, error.advice].filter(Boolean).join('\n'));
    this.code = error.code;
  }
}

/** The lines of an answer that does not end, as they come. @throws AgentError notRunning or socketDenied, or Declined */
export async function* follow({ socket: socketPath }: Ask, path: string): AsyncGenerator<string> {
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    const asked = request({ socketPath, path, agent: false }, resolve);
    asked.on('error', (fault) => reject(brokenOff(fault, socketPath)));
    asked.end();
  });
  const lines = createInterface({ input: answer });
  if (answer.statusCode === 200) {
    let cause: unknown;
    try {
      yield* lines;
    } catch (fault) {
      cause = fault;
    }
    throw new AgentError('notRunning', `the agent on ${socketPath} ended the stream`, { cause });
  }
  let text = '';
  for await (const line of lines) text += line;
  throw new Declined(JSON.parse(text) as ErrorBody);
}
