// The official SDK of this directory's version, as any program would import it.
export * from 'e2b'
export const version = '2.45.0'
