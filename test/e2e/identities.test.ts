/**
 * IMSI and MSISDN on the whole gateway: after accounting, a devices file, an
 * import, grants, triggers and refusals no file of the store and no line of the
 * log has one of them, in any writing; they do where the operator wants them
 * kept, so that the search is known to find; and are gone again when he does
 * not any more. Through all of it whoever names a device by its number reaches
 * it, and is told the number that it said itself, and no other name.
 */
import { appendFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DEVICE_NAME, DEVICE_PORT, type Reply, type TestAgent } from '../agent.ts';
import { until } from '../child.ts';
import { PLAIN, type Transaction, TriggeringGateway, triggering } from '../device-triggering.ts';
import type { Network } from '../network.ts';
import { DEVICE, standardNetwork } from '../standard-network.ts';

/** Of the devices file, of an import, of a subscriber whom no registry knows, of nobody. */
const M1 = { imsi: '262019876543210', msisdn: '491715550100' };
const M2 = { imsi: '262011112223334', msisdn: '491715550222', id: 'm2@meters.example', address: '10.20.0.9' };
const GUEST = { imsi: '262015550000009', msisdn: '491715559999', address: '10.20.0.77' };
/** Imported too, and never bound. */
const M4 = { imsi: '262013334445556', msisdn: '491715550333', id: 'm4@meters.example' };
const NOBODY = '491715550999';
const IMPORT = `externalId,msisdn,imsi\n${[M2, M4].map(({ id, msisdn, imsi }) => `${id},+${msisdn},${imsi}\n`).join('')}`;
const DIGITS = [M1, M2, M4, GUEST].flatMap(({ imsi, msisdn }) => [imsi, msisdn]).concat(NOBODY);
const SECRET = 'a secret of the tests';
const PORT = 1813;

let network: Network;
let gateway: TriggeringGateway;
let agent: TestAgent;
let file: string;

beforeAll(async () => {
  network = standardNetwork();
  gateway = new TriggeringGateway(
    network,
    `devices: [{ externalId: ${DEVICE_NAME}, msisdn: "+${M1.msisdn}", imsi: "${M1.imsi}" }, { externalId: m3@meters.example }]\n`,
  );
  agent = gateway.agent;
  file = agent.configFile;
  agent.write('radius.secret', `${SECRET}\n`, 0o600);
  appendFileSync(
    file,
    `radius: { listen: ["127.0.0.1:${PORT}"], clients: [{ name: pgw-1, addresses: [127.0.0.1], secret: radius.secret }] }\n`,
  );
  await gateway.start();
});
afterAll(() => network.close());

async function tell(session: string, { imsi, msisdn }: typeof M1, address: string, kind = 'Start'): Promise<void> {
  const attributes = [
    ...[`Acct-Status-Type = ${kind}`, `Acct-Session-Id = "${session}"`, 'NAS-Identifier = "ggsn"'],
    ...[`3GPP-IMSI = "${imsi}"`, `Calling-Station-Id = "${msisdn}"`, `Framed-IP-Address = ${address}`],
  ];
  const command = ['radclient', '-x', '-r', '1', '-t', '3', `127.0.0.1:${PORT}`, 'acct', SECRET];
  const { stdout } = await network.run('gateway', command, { input: `${attributes.join('\n')}\n`, mayFail: true });
  expect(stdout).toContain('Received Accounting-Response');
}

const byNumber = (msisdn: string, changes: object = {}): Promise<Reply> =>
  agent.grant({ device: { phoneNumber: `+${msisdn}` }, ...changes });
const shown = (id: string) => agent.curl<{ device?: object }>('GET', `/grants/${id}`);

/** Everything that may bring a number into a file; ids of what came of it. */
async function everything(round: number): Promise<{ grants: string[]; transaction: string }> {
  const ports = { devicePort: DEVICE_PORT + round };
  await tell(`s1-${round}`, M1, DEVICE.ipv4);
  await tell(`s2-${round}`, M2, M2.address);
  await tell(`guest-${round}`, GUEST, GUEST.address);
  await tell(`guest-${round}`, { ...GUEST, imsi: M2.imsi }, GUEST.address, 'Interim-Update'); // an alarm names both
  const headers = { 'Idempotency-Key': `again-${round}` };
  const first = await agent.grant({ device: { phoneNumber: `+${M1.msisdn}` }, ...ports }, { headers });
  const second = await byNumber(M2.msisdn, ports);
  const waits = await byNumber(M4.msisdn, { ...ports, whenUnreachable: 'WAIT', waitSeconds: 600 });
  expect([first.status, second.status, waits.status]).toEqual([201, 201, 202]);
  expect((await agent.grant({ device: { phoneNumber: `+${M1.msisdn}` }, ...ports }, { headers })).body).toEqual(
    first.body,
  );
  const reused = await agent.grant({ device: { phoneNumber: `+${M2.msisdn}` }, ...ports }, { headers });
  expect(await agent.refusal(reused.body)).toMatchObject({ reason: 'idempotencyKeyReused' });
  expect((await byNumber(NOBODY, ports)).status).toBe(404);
  expect((await byNumber(M1.msisdn, { ...ports, devicePort: 23 })).status).toBe(403);
  const { externalId: _, ...ask } = triggering('wake', { applicationPortId: PLAIN }) as { externalId: string };
  const absent = await gateway.ask('POST', '', { ...ask, msisdn: M1.msisdn, validityPeriod: 3600 });
  const unknown = await gateway.ask('POST', '', { ...ask, msisdn: NOBODY });
  expect([absent.status, unknown.status]).toEqual([201, 404]);
  // What operators ask is logged, too.
  await agent.mtgate('device', 'show', `+${M1.msisdn}`);
  await agent.mtgate('grants', 'list', '--device', `+${M2.msisdn}`);
  await agent.mtgate('refusals', '--device', `+${NOBODY}`);
  await agent.mtgate('explain', '--live', '--server', 'head-end', '--device', `+${M1.msisdn}`, '--port', '7000');
  await until('the ledger on disk', () => denialsOnDisk() || undefined, 30_000);
  return {
    grants: [first, second, waits].map(({ body }) => body.grantId),
    transaction: absent.body.self.split('/').at(-1) as string,
  };
}

const denialsOnDisk = () =>
  store().some(([name, bytes]) => name.startsWith('denials.db') && bytes.includes('urn:uuid:'));

/** All files of the store, what is being written included. */
const store = (): [string, Buffer][] =>
  readdirSync(join(agent.folder, 'store')).map((name) => [name, readFileSync(join(agent.folder, 'store', name))]);

/** A number as text, in UTF-16, in BCD, and in BCD with its halves changed over (TS 24.008 10.5.1.4); an odd one is filled up. */
function writings(digits: string): Buffer[] {
  const even = digits.length % 2 === 0 ? digits : `${digits}f`;
  const swapped = even.replace(/(.)(.)/g, '$2$1');
  return [Buffer.from(digits), Buffer.from(digits, 'utf16le'), Buffer.from(even, 'hex'), Buffer.from(swapped, 'hex')];
}

/** Where a number is found: the files of the store, and the log since the agent was started. */
function found(): string[] {
  const places: [string, Buffer][] = [...store(), ['the log', Buffer.from(agent.daemon.lines.join('\n'))]];
  return places.flatMap(([place, bytes]) =>
    DIGITS.filter((digits) => writings(digits).some((one) => bytes.includes(one))).map(
      (digits) => `${place}: ${digits}`,
    ),
  );
}

async function restart(keep: boolean): Promise<void> {
  await agent.daemon.stop();
  const text = readFileSync(file, 'utf8').replace(/^identities: .*\n/m, '');
  writeFileSync(file, `${text}identities: { keep: ${keep} }\n`);
  await agent.start();
}

let ids: { grants: string[]; transaction: string };

test('nothing that is written has a number in it, while it runs and when it has stopped', async () => {
  agent.write('more.csv', IMPORT);
  const { stdout } = await agent.mtgate('device', 'import', join(agent.folder, 'more.csv'));
  expect(stdout).toContain('imported 2 devices: 2 added');
  ids = await everything(0);
  expect(found()).toEqual([]);
  expect(agent.logged('accountingAlarm').at(-1)?.['why']).toMatch(/^imsi:hash:\S+ is imsi:hash:\S+ now$/);
  const stopped = await network.run('gateway', ['ls', '-l', join(agent.folder, 'store', 'identities.key')]);
  expect(stopped.stdout).toMatch(/^-rw------- /);
  await agent.daemon.stop();
  expect(found()).toEqual([]);
});

test('the server that said a number is told it, and no other name; after a restart, as far as the gateway knows it', async () => {
  await agent.start();
  const [first = '', second = '', waits = ''] = ids.grants;
  expect((await shown(first)).body.device).toEqual({ phoneNumber: `+${M1.msisdn}` }); // the devices file says it
  for (const id of [second, waits]) expect(JSON.stringify((await shown(id)).body)).not.toMatch(/device":|m[24]@|hash:/);
  const t8 = await gateway.ask('GET', `/${ids.transaction}`);
  expect(t8.body).toMatchObject({ msisdn: M1.msisdn });
  expect(JSON.stringify(t8.body)).not.toMatch(/externalId|meters\.example|hash:/);
  // By number as before: of the devices file, and of the import of which only the hash is known.
  for (const { msisdn } of [M1, M2]) {
    const { body } = await agent.curl<{ grantId: string }[]>('POST', '/retrieve-grants', {
      body: { device: { phoneNumber: `+${msisdn}` } },
    });
    expect(body.map(({ grantId }) => grantId)).toContain(msisdn === M1.msisdn ? first : second);
  }
  const twin = await byNumber(M2.msisdn, { devicePort: DEVICE_PORT });
  expect([twin.status, JSON.stringify(twin.body)]).toEqual([409, expect.stringContaining(second)]);
  expect(JSON.stringify(twin.body)).not.toMatch(/m2@|hash:/);
});

test('another key is found out: nothing is found by a hash that it did not make', async () => {
  const key = join(agent.folder, 'store', 'identities.key');
  const former = readFileSync(key);
  await agent.daemon.stop();
  writeFileSync(key, `${'0'.repeat(64)}\n`);
  await expect(agent.start()).rejects.toThrow(
    /identityKeyChanged[\s\S]*m\d@meters\.example is one[\s\S]*Put the former key back/,
  );
  writeFileSync(key, former);
  await agent.start();
  expect((await shown(ids.grants[1] ?? '')).status).toBe(200);
});

test('an export has what stands for a number, and an import takes it back', async () => {
  const { stdout } = await agent.mtgate('device', 'export', '--format', 'jsonl');
  expect(stdout).toMatch(new RegExp(`"externalId":"${M2.id}","msisdn":"hash:[\\w.-]+","imsi":"hash:[\\w.-]+"`));
  agent.write(
    'again.jsonl',
    stdout
      .split('\n')
      .filter((line) => line.includes(M2.id) || line.includes(M4.id))
      .join('\n'),
  );
  const again = await agent.mtgate('device', 'import', join(agent.folder, 'again.jsonl'), '--replace');
  expect(again.stdout).toContain('0 added, 0 changed, 0 removed, 2 as they were');
  expect((await agent.mtgate('device', 'show', `+${M2.msisdn}`)).stdout).toContain(M2.id);
  agent.write('foreign.csv', `externalId,msisdn\n${M2.id},hash:000000.${'A'.repeat(22)}\n`);
  const foreign = await agent.mtgate('device', 'import', join(agent.folder, 'foreign.csv'));
  expect(foreign.stderr).toContain('2:msisdn: a hash by the key of another gateway');
});

test('kept: databases and log have them', async () => {
  await restart(true);
  agent.write('more.csv', IMPORT);
  expect((await agent.mtgate('device', 'import', join(agent.folder, 'more.csv'))).stdout).toContain('2 changed');
  await everything(1);
  const places = found();
  for (const digits of DIGITS)
    expect(
      places.filter((one) => one.endsWith(digits)),
      digits,
    ).not.toEqual([]);
  expect(places).toContain(`the log: ${GUEST.imsi}`);
  expect((await agent.mtgate('device', 'show', M2.id)).stdout).toContain(`+${M2.msisdn}`);
});

test('kept no more: what was written is hashed at the next start, and nothing of it stays behind', async () => {
  await restart(false);
  expect(found()).toEqual([]);
  const { body } = await byNumber(M2.msisdn, { devicePort: DEVICE_PORT + 1 });
  expect(body).toMatchObject({ code: 'ALREADY_EXISTS' });
  const list = (await gateway.ask('GET')).body as unknown as Transaction[];
  expect(JSON.stringify(list)).not.toMatch(/externalId|hash:/);
  await agent.daemon.stop();
  expect(found()).toEqual([]);
});
