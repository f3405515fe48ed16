-- The plugins that the queue requires and this process lacks, as text; '' if there are none.
return missing_plugins() or ''
