/**
 * Everything the agent logs, by the fixed name that stands in the field
 * `event` of each JSON line. The log takes no other name, so that whoever
 * watches the log has the whole list here (`mtgate events` prints it).
 */
export const EVENTS = {
  ready: 'The agent serves. `attachments` says where the gate hangs.',
  storeOlder:
    'The database is an older copy of the one last used here. After a reboot none of its grants is opened again; what was bound by the management socket is forgotten: bind it again, and tell the MTC servers to ask anew.',
  recovered:
    'Record and gate are one again after a start: how many grants live, were opened again, are held, or ended.',
  reloaded: 'Devices and certificates were read again and are in force; with autoApply the rule files too.',
  policyApplied: 'An edition is in force: who (`by`, `byUid`), how, and for `confirmSeconds` on trial.',
  policyConfirmed: 'The edition on trial stays in force.',
  policyWentBack: 'An edition on trial was not confirmed, or could not be put in force: the one before it is again.',
  notGoneBack: 'Going back to the edition of before failed; it is tried again every few seconds. `message` says why.',
  editionNotWritten: 'The edition in force is not on disk yet; it is tried again every second. `message` says why.',
  autoApplyFailed: 'The rule folder is not fit to be applied by itself: the edition in force goes on.',
  certificatesReloaded: 'Certificates, CAs and CRLs are in force: how many connections go on, how many were cut.',
  certificateEndsSoon: 'A certificate or CRL ends soon: renew it, then `mtgate reload`. Once a day.',
  certificateEnded: 'A certificate or CRL is past its end. Once a day.',
  crlUnusable: 'The CRL of a client CA cannot be used: its clients are refused until one is loaded that can be.',
  crlUsable: 'The CRL of a client CA can be used again.',
  reloadFailed: 'A file is invalid: nothing has changed. `message` says where; correct it and reload.',
  stopping: 'A signal came. Live grants run on in the gate, at most orphanGraceSeconds.',
  stopped: 'All is recorded, the gateway stays closed, the process ends.',
  configurationWarning: 'A file is valid and perhaps not meant so: `warning` says what and where.',
  gateMapsUnpinned:
    "Somebody has removed pins of the gate's maps; they are pinned again, and what was in them is as it was.",
  xdpLost: 'The gate was taken away from XDP of these interfaces, and is put back: TC carried meanwhile.',
  xdpNotUsed: 'The gate does not hang at XDP of an interface: `why`. It carries there by TC alone.',
  gapFound: 'Gate, base or blackholes are not as they must be: `gap` says what. No grant is opened until they are.',
  gapRepaired: 'What `gap` says is put back.',
  gapNotRepaired: 'A gap is there and could not be closed; it is tried again. `faults` says why.',
  interfaceMissing: 'An interface of agent.yaml is not there. Its realm is closed, without the outside every one.',
  interfaceUnsuitable: 'An interface of agent.yaml is of a kind that the gate cannot hang at.',
  interfaceAppeared: 'An interface that was missing is there; gate and base cover it.',
  gateRebuilt: 'Interfaces or addresses changed: the gate was built anew and hung in place of the one before.',
  sysctlChanged: 'A kernel setting is not as the gateway needs it: `name`, `value`, `expected` and why.',
  tickFailed: 'Something that is done every second or hour failed; it is tried again. `message` says why.',
  wouldHave:
    'Staged rules would have decided otherwise: `would` (allow, refuse, otherwise, or end, of live grants), `rule`, and what was decided. Nothing of it is enforced.',
  waitBegun: 'A request waits for its device: server, device, rule; `until` is when it waits no more.',
  waitEnded: 'A request waits no more, and was not granted; `cause` says why.',
  waitFailed: 'A request that waits could not be granted when its device was bound: `message` says what failed.',
  grantOpened: 'A grant is live: server, device, rule, end.',
  grantExtended: 'A grant lives longer; `until` is its new end, `requestCorrelator` the request that asked.',
  answeredAgain: 'A request came again under its Idempotency-Key and got the answer of the first.',
  grantsHeld:
    'The agent had not been heard for orphanGraceSeconds: so many grants are closed until accounting, or a new bind, confirms who holds their addresses. They keep their endpoints and their ends.',
  grantResumed: 'The address of a grant that was held is confirmed: it is live again, to the end that it had.',
  grantLowered: 'A grant ends sooner: hours of a rule in the new policy close at `until`.',
  grantEnded: 'A grant ended; `cause` says why. Its packets have stopped.',
  refused:
    'A request was not granted: step, reason, rule, `why`; `instance` is what its asker was told. `leftOut` counts lines that were not written.',
  identificationFailed: 'A fault of ours met the handshake of a client, whose connection was cut.',
  requestFailed: 'A request met a fault of ours and was answered 500; `instance` is what its asker was told.',
  tlsRefused: 'A handshake failed; `reason` says why. `leftOut` counts lines that were not written.',
  inspectorReady: "The inspector's child reads the denials that the gate hands on.",
  inspectorSees: 'Our own test packet came through the inspector: it sees again.',
  inspectorBlind: 'Our own test packet did not come through: denials are counted and not seen. The child is restarted.',
  inspectorDied: "The inspector's child ended; it is started again. The gateway is as closed as before.",
  inspectorChildFault: "A fault in the inspector's child, in its own words.",
  natRecorderReady: 'The recorder listens; the flows of devices that run are on record.',
  natRecorderDied: 'The process that keeps the NAT record ended; it is started again, and finds what runs.',
  natRecorderFault: 'A fault in the process that keeps the NAT record, in its own words.',
  natEventsLost:
    'Not all that connection tracking told was heard or written: since `sinceMs` flows that began and ended may be missing. Those that run are looked at.',
  natRecordShortened:
    'The NAT record is as large as natRecord.keepMebibytes allows: what is oldest goes before natRecord.keepDays are over. Once a day.',
  natRecordUnusable:
    'The file of the NAT record is damaged, or of another program or version: it was put aside (`putAside`), and a new one begun.',
  natRecordNotWritten:
    'The NAT record could not be opened or written, or what is too old not be given up; it is tried again, and waits as long as there is room.',
  natCollectorAway:
    'The syslog collector of the NAT record does not take it: `why`. It is tried again; the record itself goes on.',
  natCollectorBack: 'The syslog collector takes the NAT record again; `unsent` messages were given up so far.',
  denialStoreUnusable:
    'The file of denials cannot be used: it was put aside (`putAside`), or stays as it is for the next start, and the list is kept in memory until then (`kept`). Grants do not rest on it.',
  denialsNotKept: 'Denials and refusals could not be written; they stay in memory as long as there is room.',
  outboxUnusable:
    'The file of what is to be pushed cannot be used: it was put aside (`putAside`), or stays as it is for the next start, and what comes is kept in memory until then (`kept`). What waited in it is not pushed now.',
  outboxNotKept: 'What is to be pushed could not be written; it stays in memory as long as there is room.',
  pushed: 'An event was taken by its sink. At level debug.',
  pushFailed:
    'An event could not be pushed to its `sink`, and is tried again: `fault` and `why`. `mtgate reports` counts.',
  filterWouldHave:
    'A staged filter met a packet and, being staged, did nothing. `leftOut` counts copies since its last line.',
  triggerSourceFault:
    'Triggers cannot be sent from `source`; `message` says why. The next one tries again once the address is there.',
  triggerSourceMissing:
    'Triggers cannot be sent from `source` as things stand at the start: `why`. Give this host the address; the next trigger uses it then.',
  connectionShed:
    'A connection was closed: `reason` says whose share or time was used up. `leftOut` counts the others.',
  accounted: 'What a NAS told by RADIUS, and what became of it (`finding`). At level debug.',
  accountingAlarm:
    'What a NAS told by RADIUS should not be: `finding` says what, `why` what was seen. `mtgate radius status` counts them.',
  accountingFailed: 'What a NAS told could not be carried out; it is not answered, so that the NAS repeats it.',
  bindingBegun: 'A device holds an inner address from now on.',
  bindingEnded: 'A device holds an inner address no more; the grants that rested on it have ended.',
  radiusDropped:
    'A datagram of RADIUS accounting was dropped; `reason` and `why`. One line a minute for each client and reason; `leftOut` counts the others.',
  radiusLost: 'The kernel had no room for so many datagrams of RADIUS accounting; their clients send them again.',
  radiusBufferSmall:
    'The receive buffer for RADIUS accounting is smaller than wanted: raise net.core.rmem_max, then restart.',
  radiusFault: 'A socket of RADIUS accounting failed to receive or to send; `message` says why.',
  triggerAccepted: 'A trigger is on record: server, device, port, rule; `until` is how long it is valid.',
  triggerReplaced: 'Another trigger is in the transaction of one that was pending; `until` is how long it is valid.',
  triggerTried:
    'A trigger was sent, or tried to be; `outcome` says what became of it. At level debug where it is tried again.',
  triggerEnded: 'A trigger is pending no more; `cause` says why.',
  triggerFailed: 'What is due with a trigger could not be done, and is tried again; `message` says what failed.',
  recallAsked: 'A server, or an operator (`byUid`), recalls a trigger.',
  deskChanged:
    'An MTC user (`mtcUser`) said whom it authorises or what it wants, with a certificate, or an operator (`byUid`) for it: `what`. What that ends has ended.',
  endAsked: 'A server gives a grant back.',
  drainAsked: 'An operator (`byUid`) wants no new grants, or wants them again.',
  revokeAsked: 'An operator (`byUid`) revokes a grant.',
  bindAsked: 'An operator (`byUid`) binds a device to an inner address.',
  unbindAsked: 'An operator (`byUid`) takes an inner address from a device.',
  importAsked: 'An operator (`byUid`) registers devices by a file: how, and whether only to see what it would change.',
  devicesImported: 'An import is registered: how many devices it added, changed, removed; how many there are now.',
  exportAsked: 'An operator (`byUid`) has all registered devices written out.',
  reloadAsked: 'An operator (`byUid`) asks to read the files again.',
  managementFailed: 'A request on the management socket met a fault; its asker was told the same.',
} as const satisfies Record<string, string>;

export type EventName = keyof typeof EVENTS;
