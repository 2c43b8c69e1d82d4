CREATE TABLE {snapshot}
OPTIONS (expiration_timestamp = TIMESTAMP '{expires}')
AS SELECT * FROM {table}
