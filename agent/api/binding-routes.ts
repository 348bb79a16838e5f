/** The part of the management interface that is about what a device is known as and holds: addresses are bound and unbound here. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { type Address, parseAddress } from '../core/net.ts';
import { type ExternalId, parseExternalId, type RealmName } from '../core/words.ts';
import { type Declined, decline } from './declined.ts';
import { bindingRow, deviceDetail, type OperatorBinding, type OperatorDevice } from './operator-rows.ts';

export interface BindingUseCases {
  device(name: string): OperatorDevice | undefined;
  /** What the log and the records call a subscriber that is named by digits; nothing of other names. */
  standsFor(name: string): string;
  bindings(): readonly OperatorBinding[];
  bind(device: ExternalId, realm: RealmName, address: Address, byUid: number): Promise<Declined | undefined>;
  unbind(device: ExternalId, realm: RealmName, address: Address, byUid: number): Promise<Declined | undefined>;
}

export const ADDRESS = z.string().transform((text, issue) => parseAddress(text) ?? complain(issue, 'an IP address'));
const EXTERNAL_ID = z.string().transform((text, issue) => parseExternalId(text) ?? complain(issue, 'local@domain'));

const BINDING = z.strictObject({
  device: EXTERNAL_ID,
  realm: z
    .string()
    .min(1)
    .transform((name) => name as RealmName),
  address: ADDRESS,
});

function complain(issue: z.core.$RefinementCtx, expected: string): never {
  issue.addIssue({ code: 'custom', message: `expected ${expected}` });
  return z.NEVER;
}

export function addBindingRoutes(
  app: FastifyInstance,
  useCases: BindingUseCases,
  uidOf: (request: FastifyRequest) => number,
): void {
  app.get<{ Params: { name: string } }>('/devices/:name', (request, reply) => {
    const { name } = request.params;
    const found = useCases.device(name);
    if (found) return deviceDetail(found);
    const why = `no device ${name} is registered${useCases.standsFor(name)}`;
    return decline(reply, 404, { refused: 'deviceUnknown', why });
  });
  app.get('/bindings', () => useCases.bindings().map(bindingRow));
  app.post('/bindings', async (request, reply) => {
    const { device, realm, address } = BINDING.parse(request.body);
    const declined = await useCases.bind(device, realm, address, uidOf(request));
    return declined ? decline(reply, 409, declined) : reply.code(204).send();
  });
  // A client must say the length of this body itself: Node's does so for POST alone.
  app.delete('/bindings', async (request, reply) => {
    const { device, realm, address } = BINDING.parse(request.body);
    const declined = await useCases.unbind(device, realm, address, uidOf(request));
    return declined ? decline(reply, 409, declined) : reply.code(204).send();
  });
}
