/**
 * The `mtgate` command as a client of the agent's management socket: the
 * options that such a command has, and one request with its answer.
 */
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { createInterface } from 'node:readline';
import { Option } from 'commander';
import type { ErrorBody } from '../api/management.ts';
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

/** The agent's own words of why it did not. */
export class Declined extends Error {
  readonly code: string;

  constructor({ error }: ErrorBody) {
    super([`${error.code}: ${error.message}`, error.cause, error.advice].filter(Boolean).join('\n'));
    this.code = error.code;
  }
}

/** The lines of an answer that does not end, as they come. @throws AgentError notRunning, or Declined */
export async function* follow({ socket: socketPath }: Ask, path: string): AsyncGenerator<string> {
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    const asked = request({ socketPath, path, agent: false }, resolve);
    asked.on('error', (cause) => reject(new AgentError('notRunning', `no agent answers on ${socketPath}`, { cause })));
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
