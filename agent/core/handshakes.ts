/**
 * Why a connection with the API came to nothing: its TLS handshake failed, or
 * it was closed to make room. Mostly nobody is known by then, so that it is
 * neither a refusal nor a denial; but what failed stands in the same list.
 */

/** Why a handshake failed; the texts are for operators. */
export const HANDSHAKES = {
  tlsNoCertificate: {
    text: 'the client sent no certificate',
    advice: 'A stranger, or a server that is not set up: it needs a certificate of a client CA in agent.yaml.',
  },
  tlsCertificateExpired: {
    text: 'the client certificate, or one above it, is not valid at this time',
    advice: 'Have it renewed; if every client fails so, look at the clock of this host.',
  },
  tlsUnknownCa: {
    text: 'the certificate leads to no client CA of agent.yaml',
    advice: 'If the server is yours, add its CA to api.clientCAs, or have it send its intermediates.',
  },
  tlsWrongUse: {
    text: 'the certificate is not for client authentication',
    advice: 'Have one issued with the extended key usage clientAuth.',
  },
  tlsVersion: {
    text: 'the client speaks an older TLS only',
    advice: 'Have the client renewed, or set api.minimumTls to 1.2.',
  },
  tlsTimeout: {
    text: 'the handshake was not finished in time',
    advice: 'A stalled or hostile client, or a path that loses packets (MTU).',
  },
  tlsShed: {
    text: 'closed before the handshake: this address, or its server, has its share already',
    advice:
      'A flood, or a server that makes a connection a request: see mtgate_connections_shed_total. Few are listed here.',
  },
  tlsAborted: { text: 'the client broke off', advice: 'Often a port scan; if it is a server of yours, read its log.' },
  tlsOther: { text: 'the handshake failed in another way', advice: 'The log line tlsRefused has the words of TLS.' },
} as const satisfies Record<string, { text: string; advice: string }>;

export type TlsReason = keyof typeof HANDSHAKES;

/**
 * Why a connection was closed that nobody had told to go. Before its
 * handshake, whose share was used up: of connections (`places`) or of
 * handshakes a second, of a server (by the address), of all strangers
 * together, or of one stranger's address. In it: it stood still, and made room
 * for a newer one (`overtaken`). After it: too many requests at once
 * (`pipelined`), an answer that was not read in time, a stranger's time.
 */
export type ShedReason =
  | 'serverPlaces'
  | 'serverHandshakes'
  | 'strangerPlaces'
  | 'strangerHandshakes'
  | 'addressPlaces'
  | 'addressHandshakes'
  | 'overtaken'
  | 'pipelined'
  | 'answerUnread'
  | 'strangerTime';
