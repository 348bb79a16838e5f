import type { Grants } from '../grants/grants.ts';
import type { GrantRecord } from '../grants/record.ts';
import type { WaitingRequest } from '../grants/waiting-request.ts';
import { PageKeys } from './page-keys.ts';

/**
 * Lists by pages: what waits, then what is live. So one that is granted while
 * the list is read may be in it twice, first waiting, but is not missed. A key
 * stands for a place in the order of the grants, which begins anew with each
 * start of the agent; among those that wait, for the last one.
 */
export class Pages {
  readonly #grants: Grants;
  readonly #keys = new PageKeys();

  constructor(grants: Grants) {
    this.#grants = grants;
  }

  /** A page as `view` shows it: nothing else of a record leaves here. */
  read<View>(
    of: Parameters<Grants['list']>[0],
    limit: number,
    key: string | undefined,
    view: (record: GrantRecord | WaitingRequest) => View,
  ): { grants: View[]; total: number; lastKey?: string } | 'seekUnknown' {
    const from = key === undefined ? { waited: 0 } : this.#keys.open(key);
    if (!from) return 'seekUnknown';
    const waited = this.#grants.listWaiting(of, 'waited' in from ? from.waited : Number.POSITIVE_INFINITY, limit);
    const left = limit - waited.requests.length;
    const live = this.#grants.list(of, 'waited' in from ? undefined : from, Math.max(1, left));
    const total = waited.total + live.total;
    if (left === 0) {
      const more = waited.more || live.records.length > 0;
      return {
        grants: waited.requests.map(view),
        total,
        ...(more && { lastKey: this.#keys.seal({ waited: waited.last }) }),
      };
    }
    const grants = [...waited.requests, ...live.records].map(view);
    return { grants, total, ...(live.next && { lastKey: this.#keys.seal(live.next) }) };
  }
}
