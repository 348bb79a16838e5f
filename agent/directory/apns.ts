/**
 * Which realm an APN (a DNN, for an SMF) leads to. agent.yaml names APNs with
 * or without the operator identifier (`.mnc001.mcc262.gprs`, TS 23.003 9.1.2);
 * a NAS sends either. One that is named whole is matched whole first; one that
 * is named by its network identifier alone matches whatever operator
 * identifier comes with it, or none. Case does not count.
 */
import { type Apn, networkIdentifier, type RealmName } from '../core/words.ts';

export class Apns {
  readonly #realms: ReadonlyMap<string, RealmName>;

  constructor(inside: readonly { readonly realm: RealmName; readonly apns: readonly Apn[] }[]) {
    this.#realms = new Map(inside.flatMap(({ realm, apns }) => apns.map((apn) => [apn, realm])));
  }

  /** `said` is what a NAS calls it. */
  realmOf(said: string): RealmName | undefined {
    const apn = said.toLowerCase();
    return this.#realms.get(apn) ?? this.#realms.get(networkIdentifier(apn));
  }
}
