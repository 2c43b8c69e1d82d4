CREATE SNAPSHOT TABLE IF NOT EXISTS {snapshot} CLONE {table}
OPTIONS (expiration_timestamp = TIMESTAMP '{expires} UTC')
