/**
 * What an operator can ask about who was turned away: between the ledger and
 * the management interface.
 */
import type { DenialUseCases } from '../api/denial-routes.ts';
import { unknownWord } from '../core/fields.ts';
import { HANDSHAKES } from '../core/handshakes.ts';
import type { Identities } from '../core/identities.ts';
import { BASE_DENIALS, DENIALS } from '../core/reasons.ts';
import { REFUSALS, type Step } from '../core/refusals.ts';
import type { MtcUserName, ServerName } from '../core/words.ts';
import type { Account } from '../inspector/account.ts';
import { type Denial, matches } from '../inspector/denials.ts';
import type { InspectorReading } from '../inspector/inspector.ts';
import type { Ledger } from '../inspector/ledger.ts';
import type { Policy } from '../policy/policy.ts';
import type { Remedies } from './remedies.ts';

/** What has changed is told this often: under a flood a row once, and not with every packet. */
const TELL_EVERY_MS = 200;

interface Sources {
  readonly ledger: Ledger;
  readonly account: () => Account;
  readonly inspector: () => InspectorReading;
  readonly streamCut: () => void;
  readonly remedies: Remedies;
  readonly identities: Identities;
  readonly policy: () => Pick<Policy, 'servers' | 'mtcUsers'>;
}

export function denialUseCases({
  ledger,
  account,
  inspector,
  streamCut,
  remedies,
  identities,
  policy,
}: Sources): DenialUseCases {
  return {
    denials: (filter, limit) => ledger.denials.list(filter, limit),
    account: () => ({ ...account(), inspector: inspector() }),
    followDenials(filter, tell) {
      const changed = new Map<string, Denial>();
      let timer: NodeJS.Timeout | undefined;
      const unwatch = ledger.denials.watch((row) => {
        if (!matches(filter, row)) return;
        changed.set(row.id, row);
        timer ??= setTimeout(() => {
          timer = undefined;
          const rows = [...changed.values()];
          changed.clear();
          tell(rows);
        }, TELL_EVERY_MS);
      });
      return () => {
        unwatch();
        clearTimeout(timer);
      };
    },
    streamCut,
    refusals: ({ device, ...filter }, limit) =>
      ledger.refusals({ ...filter, ...(device !== undefined && { device: identities.toldAs(device) }) }, limit),
    unknownName({ mtcUser, server }) {
      const { mtcUsers, servers } = policy();
      if (mtcUser !== undefined && !mtcUsers.has(mtcUser as MtcUserName))
        return { refused: 'mtcUserUnknown', why: unknownWord('MTC user', mtcUser, [...mtcUsers.keys()]) };
      if (server !== undefined && !servers.has(server as ServerName))
        return { refused: 'serverUnknown', why: unknownWord('server', server, [...servers.keys()]) };
      return undefined;
    },
    why(id) {
      const denial = ledger.denials.get(id);
      if (denial) return { denial, ...explained(denial), ...remedies.ofDenial(denial) };
      const refusal = ledger.refusal(id.startsWith('urn:uuid:') ? id : `urn:uuid:${id.toLowerCase()}`);
      if (!refusal) return remedies.ofGrant(id);
      return { refusal, ...explained({ kind: 'request', reason: refusal.reason }), ...remedies.ofRefusal(refusal) };
    },
  };
}

/** What an operator does about a refusal, by the step that stopped it. */
const ADVICE: Readonly<Record<Step, string>> = {
  gateway: 'See `mtgate status`: no grant is opened until the gateway is as it should be.',
  authentication: 'Compare the certificate and the address with `servers` in the rule files.',
  admission:
    'The server asks for more at once than its part; if it is another that must wait, look at the load of this host.',
  request: 'The server must correct its request; the API contract says how.',
  device: 'See whether the device is registered (`mtgate device show`), by the identifier that was used.',
  mtcUser: 'If the MTC user wants this server, add it to its `authorises`.',
  rule: '`mtgate explain --live` shows every rule and why it did not allow this.',
  preference: 'Nothing: the owner of the device does not want it now; `mtgate users show` has its preferences.',
  trigger: 'The server must ask for less, or the `limits` of the trigger rule are too low.',
  applicationServer: 'The server must name an address within its `sources`.',
  filter: 'A drop of the `filters` takes the packets of this grant: narrow it, or have the server name its port.',
  rate: 'The server asks too often; its `limits` are in the rule that allows it.',
  existing: 'Nothing: the server has what it asks for.',
  quota: 'The server must give grants back, or its `limits` are too low.',
  binding: 'See `mtgate device list`: the device has no address at the moment.',
  endpoint: 'The grants pool is used up: `mtgate grants list` shows by whom.',
  commit: 'Nothing: the server asks again.',
  desk: 'The MTC user must correct its request; what it may authorise, and which devices are its own, the rule files say.',
  record:
    'Look at the disk of store.directory: space, rights, faults. It goes on by itself once records can be written.',
};

/** Of a reason that this version does not know (the store may be of another) only the name can be said. */
function explained({ kind, reason }: Pick<Denial, 'kind' | 'reason'>): { meaning: string; advice: string } {
  const faces: Readonly<Record<string, { title: string; step: Step } | undefined>> = REFUSALS;
  const texts: Readonly<Record<string, { text: string; advice: string } | undefined>> = {
    ...DENIALS,
    ...BASE_DENIALS,
    ...HANDSHAKES,
  };
  const face = kind === 'request' ? faces[reason] : undefined;
  if (face) return { meaning: face.title, advice: ADVICE[face.step] };
  const { text: meaning, advice } = texts[reason] ?? { text: reason, advice: 'See the changelog for this reason.' };
  return { meaning, advice };
}
